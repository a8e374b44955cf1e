import { applyText, auditEvents, expect, kubectl, namespace, signIn, test, workload } from './help.js';

test.beforeEach(async ({ page }) => signIn(page));

test('pods are listed, filtered by name, label, address, UID and image, and followed', async ({ page }) => {
  const ns = namespace('browser-list');
  workload(ns, 'finder', 2);
  kubectl('rollout', 'status', 'deployment/finder', '-n', ns, '--timeout=60s');
  const pods = JSON.parse(kubectl('get', 'pods', '-n', ns, '-o', 'json')) as { items: { metadata: { name: string; uid: string }; status: { podIP: string } }[] };
  const [one, two] = pods.items;
  if (!one || !two) throw new Error('there are not two pods');
  await page.goto('/ui/list/pods');
  const grid = page.getByRole('grid');
  const filter = page.getByRole('textbox', { name: 'Filter' });
  const only = async (text: string, names: string[]): Promise<void> => {
    await filter.fill(text);
    for (const name of names) await expect(grid.getByRole('link', { name })).toBeVisible();
    await expect(grid.getByRole('link')).toHaveCount(names.length);
  };
  await only(`/^${one.metadata.name}$/`, [one.metadata.name]);
  await only(`app=finder ns:${ns}`, [one.metadata.name, two.metadata.name]);
  await only(`ip:${two.status.podIP}`, [two.metadata.name]);
  await only(one.metadata.uid, [one.metadata.name]);
  await only(`ns:${ns} image:busybox`, [one.metadata.name, two.metadata.name]);
  await only(`ns:${ns} image:no-such-image`, []);
  await expect(grid.getByText('Nothing matches')).toBeVisible();
  await only(`ns:${ns} -${one.metadata.name}`, [two.metadata.name]);
  await filter.fill(`ns:${ns}`);
  kubectl('scale', 'deployment/finder', '-n', ns, '--replicas=3');
  await expect(grid.getByRole('link')).toHaveCount(3);
  kubectl('scale', 'deployment/finder', '-n', ns, '--replicas=1');
  await expect(grid.getByRole('link')).toHaveCount(1);
});

test('a workload is scaled, restarted, rolled back and deleted with what goes with it', async ({ page }) => {
  const ns = namespace('browser-work');
  workload(ns, 'web', 1);
  kubectl('rollout', 'status', 'deployment/web', '-n', ns, '--timeout=60s');
  const of = (path: string): string => kubectl('get', 'deployment/web', '-n', ns, '-o', `jsonpath={${path}}`);
  const answer = async (name: string): Promise<void> => {
    await page.getByRole('dialog').getByRole('button', { name, exact: true }).click();
    await expect(page.getByRole('dialog')).toHaveCount(0);
  };
  await page.goto(`/ui/object/deployments.apps/${ns}/web`);
  const actions = page.getByRole('group', { name: 'Actions' });
  await actions.getByRole('button', { name: 'Scale' }).click();
  await page.getByLabel('Replicas').fill('2');
  await answer('Scale');
  expect(of('.spec.replicas')).toBe('2');
  await expect(page.getByText('2 ready of 2')).toBeVisible();
  await actions.getByRole('button', { name: 'Restart' }).click();
  await answer('Restart');
  expect(of('.spec.template.metadata.annotations')).toContain('restartedAt');
  kubectl('rollout', 'status', 'deployment/web', '-n', ns, '--timeout=60s');
  await actions.getByRole('button', { name: 'Roll back' }).click();
  await expect(page.getByRole('dialog').getByText('Revision 1')).toBeVisible();
  await answer('Roll back');
  expect(of('.spec.template.metadata.annotations')).not.toContain('restartedAt');
  await actions.getByRole('button', { name: 'Delete' }).click();
  await expect(page.getByRole('dialog')).toContainText('These are deleted with it:');
  await expect(page.getByRole('dialog').getByText('ReplicaSet', { exact: true }).first()).toBeVisible();
  await answer('Delete');
  await expect(page.getByText('It has been deleted.')).toBeVisible();
  await expect.poll(() => kubectl('get', 'pods,replicasets', '-n', ns, '-o', 'name'), { timeout: 30_000 }).toBe('');
});

test('YAML is edited by server-side apply: the difference first, conflicts by name, then saved', async ({ page }) => {
  const ns = namespace('browser-yaml');
  applyText(`{apiVersion: v1, kind: ConfigMap, metadata: {name: settings, namespace: ${ns}}, data: {colour: green, shape: round}}`);
  await page.goto(`/ui/object/configmaps/${ns}/settings/yaml`);
  await expect(page.getByRole('region', { name: 'Manifest' })).toContainText('colour: green');
  await page.getByRole('button', { name: 'Edit' }).click();
  const text = page.getByRole('textbox', { name: 'Manifest' });
  await text.fill((await text.inputValue()).replace('colour: green', 'colour: blue'));
  await page.getByRole('button', { name: 'See what would change' }).click();
  // kubectl wrote the field, so this is a conflict that names it.
  await expect(page.getByRole('alert')).toContainText('.data.colour');
  await expect(page.getByRole('alert')).toContainText('kubectl');
  await page.getByLabel('Take them over').click();
  const difference = page.getByRole('region', { name: 'What would change' });
  await expect(difference).toContainText('-  colour: green');
  await expect(difference).toContainText('+  colour: blue');
  expect(kubectl('get', 'configmap/settings', '-n', ns, '-o', 'jsonpath={.data.colour}')).toBe('green'); // nothing has changed yet
  await page.getByRole('button', { name: 'Save' }).click();
  await expect(page.getByText('Saved.')).toBeVisible();
  expect(kubectl('get', 'configmap/settings', '-n', ns, '-o', 'jsonpath={.data}')).toBe('{"colour":"blue","shape":"round"}');
  // A field that does not exist is refused by its name.
  await page.getByRole('button', { name: 'Edit' }).click();
  await text.fill((await text.inputValue()) + '\ncolor: red\n');
  await page.getByRole('button', { name: 'See what would change' }).click();
  await expect(page.getByRole('alert')).toContainText('color');
  await page.getByRole('link', { name: 'Changes' }).click();
  await expect(page.getByRole('region', { name: 'Who set which fields last' })).toContainText('kontiki-dashboard');
});

test('Secrets are hidden until they are asked for', async ({ page }) => {
  const ns = namespace('browser-secret');
  applyText(`{apiVersion: v1, kind: Secret, metadata: {name: key, namespace: ${ns}}, stringData: {password: open-sesame}}`);
  const bodies: Promise<string>[] = [];
  page.on('response', (r) => {
    if (r.url().includes('/secrets') && !r.url().includes('watch=')) bodies.push(r.text().catch(() => ''));
  });
  await page.goto(`/ui/object/secrets/${ns}/key`);
  await expect(page.getByText('This Secret is hidden.')).toBeVisible();
  const encoded = Buffer.from('open-sesame').toString('base64');
  expect((await Promise.all(bodies)).length).toBeGreaterThan(0);
  for (const body of await Promise.all(bodies)) expect(body).not.toContain(encoded);
  const reads = (): { verb: string; user: { username: string }; stage: string }[] =>
    auditEvents().filter((e) => e.verb === 'get' && e.objectRef?.resource === 'secrets' && e.objectRef.namespace === ns && e.objectRef.name === 'key');
  const before = reads().length; // metadata alone was read so far, by lists and watches
  await page.getByRole('button', { name: 'Show it' }).click();
  await expect(page.getByText('open-sesame')).toHaveCount(0);
  await expect.poll(() => reads().length).toBe(before + 1);
  expect(reads().at(-1)).toMatchObject({ verb: 'get', stage: 'ResponseComplete', user: { username: 'kubernetes-admin' }, responseStatus: { code: 200 } });
  await page.getByRole('button', { name: 'Show password' }).click();
  await expect(page.getByText('open-sesame')).toBeVisible();
  await page.getByRole('button', { name: 'Hide' }).click();
  await expect(page.getByText('open-sesame')).toHaveCount(0);
});

test('no page shows a value of a Secret unasked, not even what kubectl notes of it', async ({ page }) => {
  const ns = namespace('browser-unasked');
  const manifest = (value: string): string => `{apiVersion: v1, kind: Secret, metadata: {name: key, namespace: ${ns}}, stringData: {password: ${value}}}`;
  applyText(manifest('value-one'));
  applyText(manifest('value-two')); // kubectl's annotation has it too
  const kept = (): string => kubectl('get', 'secret/key', '-n', ns, '-o', 'jsonpath={.data.password} {.metadata.annotations.kubectl\\.kubernetes\\.io/last-applied-configuration}');
  const before = kept();
  expect(before).toContain('value-two');
  applyText(
    JSON.stringify({
      apiVersion: 'v1', kind: 'Pod', metadata: { name: 'user', namespace: ns },
      spec: { terminationGracePeriodSeconds: 0, containers: [{ name: 'app', image: 'busybox:latest', imagePullPolicy: 'IfNotPresent', command: ['sleep', '3600'], env: [{ name: 'PASSWORD', valueFrom: { secretKeyRef: { name: 'key', key: 'password' } } }], volumeMounts: [{ name: 'key', mountPath: '/key' }] }], volumes: [{ name: 'key', secret: { secretName: 'key' } }] },
    }),
  );
  kubectl('wait', '--for=condition=Ready', 'pod/user', '-n', ns, '--timeout=60s');
  const values = ['value-one', 'value-two', 'value-three'].flatMap((v) => [v, Buffer.from(v).toString('base64').replace(/=+$/, '')]);
  const unseen = async (what: string): Promise<void> => {
    const html = await page.content();
    for (const v of values) expect.soft(html.includes(v), `${what} shows ${v}`).toBe(false);
  };
  for (const [path, ready] of [
    ['/ui/list/secrets?q=' + ns, '[role=grid] a'], [`/ui/object/secrets/${ns}/key`, 'text=This Secret is hidden'], [`/ui/object/secrets/${ns}/key/yaml`, 'text=This Secret is hidden'],
    [`/ui/object/secrets/${ns}/key/changes`, 'summary'], [`/ui/object/secrets/${ns}/key/events`, 'main h1'], [`/ui/timeline?q=${ns}`, 'main li'], ['/ui/map', 'section.place'],
    [`/ui/object/pods/${ns}/user`, 'text=Containers'], [`/ui/object/pods/${ns}/user/yaml`, 'pre'], [`/ui/object/pods/${ns}/user/events`, 'main li'], [`/ui/object/namespaces/-/${ns}`, 'main h1'],
  ] as const) {
    await page.goto(path);
    await expect(page.locator(ready).first()).toBeVisible();
    await unseen(path);
  }
  await page.goto(`/ui/object/secrets/${ns}/key`);
  await page.getByRole('button', { name: 'Delete' }).click();
  await expect(page.getByRole('dialog')).toBeVisible();
  await unseen('the question');

  // A release whose difference, failure and undoing are of a Secret. What the user typed is the user's to see.
  await page.goto('/ui/apply');
  const manifests = page.getByRole('textbox', { name: 'Manifests' });
  await manifests.fill(`${manifest('value-three')}\n---\n{apiVersion: batch/v1, kind: Job, metadata: {name: migrate, namespace: ${ns}}, spec: {backoffLimit: 0, template: {spec: {restartPolicy: Never, containers: [{name: migrate, image: 'busybox:latest', imagePullPolicy: IfNotPresent, command: ['false']}]}}}}`);
  await page.getByRole('button', { name: 'See what would change' }).click();
  await expect(page.getByRole('region', { name: 'What changes of key' })).toContainText('hidden, ');
  await unseen('the difference');
  await page.getByRole('button', { name: 'Apply', exact: true }).click();
  await expect(page.getByText('All of it was undone.')).toBeVisible({ timeout: 40_000 });
  await unseen('the undone release');
  expect(kept()).toBe(before); // kubectl's note as well
});

test('a release is applied as one, shows its difference first, and is undone whole when it fails', async ({ page }) => {
  const ns = namespace('browser-release');
  applyText(`{apiVersion: v1, kind: ConfigMap, metadata: {name: settings, namespace: ${ns}}, data: {colour: green}}`);
  await page.goto('/ui/apply');
  const manifests = page.getByRole('textbox', { name: 'Manifests' });
  await manifests.fill(`
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: ${ns}}
data: {colour: blue, size: large}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: made, namespace: ${ns}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: migrate, namespace: ${ns}}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      containers: [{name: migrate, image: 'busybox:latest', imagePullPolicy: IfNotPresent, command: ['false']}]
`);
  await page.getByRole('button', { name: 'See what would change' }).click();
  await expect(page.getByRole('alert')).toContainText('conflict');
  await page.getByLabel('Take over the fields').check();
  await page.getByRole('button', { name: 'See what would change' }).click();
  await expect(page.getByRole('region', { name: 'What changes of settings' })).toContainText('+  colour: blue');
  await expect(page.getByText('3 objects would change, 0 would not.')).toBeVisible();
  expect(kubectl('get', 'configmap,job', '-n', ns, '-o', 'name')).not.toContain('made');
  await page.getByRole('button', { name: 'Apply', exact: true }).click();
  await expect(page.getByText('All of it was undone.')).toBeVisible({ timeout: 40_000 });
  await expect(page.getByRole('alert')).toContainText('Job migrate');
  expect(kubectl('get', 'configmap/settings', '-n', ns, '-o', 'jsonpath={.data}')).toBe('{"colour":"green"}');
  await expect.poll(() => kubectl('get', 'configmap,job', '-n', ns, '-o', 'name')).not.toMatch(/made|migrate/);

  await page.getByRole('button', { name: 'Back to the manifests' }).click();
  await manifests.fill(`{apiVersion: v1, kind: ConfigMap, metadata: {name: made, namespace: ${ns}}, data: {a: b}}`);
  await page.getByRole('button', { name: 'See what would change' }).click();
  await page.getByRole('button', { name: 'Apply', exact: true }).click();
  await expect(page.getByText('Everything has rolled out.')).toBeVisible();
  expect(kubectl('get', 'configmap/made', '-n', ns, '-o', 'jsonpath={.data.a}')).toBe('b');
});

test('a node is cordoned, drained and uncordoned', async ({ page }) => {
  const ns = namespace('browser-drain');
  workload(ns, 'mover', 2);
  kubectl('rollout', 'status', 'deployment/mover', '-n', ns, '--timeout=60s');
  await page.goto('/ui/object/nodes/-/worker-2');
  const actions = page.getByRole('group', { name: 'Actions' });
  await actions.getByRole('button', { name: 'Cordon', exact: true }).click();
  await expect(page.getByText('no, it is cordoned')).toBeVisible();
  await actions.getByRole('button', { name: 'Drain' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Drain' }).click();
  await expect(page.getByText('worker-2 is drained.')).toBeVisible({ timeout: 45_000 });
  expect(kubectl('get', 'pods', '-n', ns, '--field-selector', 'spec.nodeName=worker-2', '-o', 'name')).toBe('');
  await actions.getByRole('button', { name: 'Uncordon' }).click();
  await expect(page.getByText('takes new pods again')).toBeVisible();
  expect(kubectl('get', 'node/worker-2', '-o', 'jsonpath={.spec.unschedulable}')).toBe('');
});

test('hostile names and texts are shown as they are', async ({ page }) => {
  const ns = namespace('browser-hostile');
  applyText(
    JSON.stringify({
      apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'a.b-c.d', namespace: ns, annotations: { note: '<img src=x onerror=alert(1)>' }, labels: { 'x.example/y': 'z' } },
      data: { '.hidden': '</pre><script>alert(1)</script>', long: 'x'.repeat(20_000), __proto: '{"a":1}' },
    }),
  );
  let asked = false;
  page.on('dialog', (d) => ((asked = true), void d.dismiss()));
  await page.goto(`/ui/object/configmaps/${ns}/a.b-c.d`);
  await expect(page.getByText('<script>alert(1)</script>')).toBeVisible();
  await expect(page.getByText('<img src=x onerror=alert(1)>')).toBeVisible();
  await page.goto(`/ui/object/configmaps/${ns}/${encodeURIComponent('../../secrets/x')}`);
  await expect(page.getByRole('alert')).toBeVisible();
  await page.goto('/ui/list/%3Cscript%3E');
  await expect(page.getByText('The cluster has no kind “<script>”.')).toBeVisible();
  expect(asked).toBe(false);
});
