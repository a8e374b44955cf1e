import { applyText, expect, kubectl, namespace, signIn, test, workload } from './help.js';

test.beforeEach(async ({ page }) => signIn(page));

test('the logs of a workload are merged, followed, filtered, and previous ones shown', async ({ page }) => {
  const ns = namespace('browser-logs');
  workload(ns, 'speaker', 3);
  kubectl('rollout', 'status', 'deployment/speaker', '-n', ns, '--timeout=60s');
  await page.goto(`/ui/object/deployments.apps/${ns}/speaker/logs`);
  const log = page.getByRole('log');
  await expect(page.getByText('from 3 containers')).toBeVisible();
  for (const name of kubectl('get', 'pods', '-n', ns, '-o', 'jsonpath={.items[*].metadata.name}').split(' ')) await expect(log.getByText(`of ${name}`).first()).toBeVisible();
  await expect(log.getByText(/^line [0-9]{1,3} of/).last()).toBeVisible();
  const filter = page.getByLabel('Expression');
  await filter.fill('line [12] of');
  await expect(page.getByText(/^6 lines of/)).toBeVisible();
  await filter.fill('line [');
  await expect(page.getByRole('alert')).toContainText('regular expression');
  await filter.fill('');
  // A new pod's lines come without being asked for.
  kubectl('scale', 'deployment/speaker', '-n', ns, '--replicas=4');
  await expect(page.getByText('from 4 containers')).toBeVisible();

  workload(ns, 'crasher', 1, 'echo "the reason is $HOSTNAME"; sleep 1; exit 3');
  const restarted = (): string => kubectl('get', 'pods', '-n', ns, '-l', 'app=crasher', '-o', 'jsonpath={.items[0].status.containerStatuses[0].restartCount}');
  await expect.poll(restarted, { timeout: 40_000 }).not.toMatch(/^0?$/);
  await page.goto(`/ui/object/deployments.apps/${ns}/crasher/logs`);
  await page.getByRole('button', { name: 'Previous' }).click();
  await expect(log.getByText('the reason is').first()).toBeVisible();
});

test('the logs of 20 pods with 1,000 lines a second each stay readable', async ({ page }) => {
  test.setTimeout(150_000);
  const ns = namespace('browser-fast');
  // A burst of 100 lines ten times a second; every thousandth line says so.
  workload(ns, 'flood', 20, 'i=0; while true; do awk -v from=$i -v pod=$HOSTNAME \'BEGIN { for (n = from + 1; n <= from + 100; n++) print "line " n " of " pod (n % 1000 ? "" : " MARKED") }\'; i=$((i+100)); usleep 100000; done');
  try {
    kubectl('rollout', 'status', 'deployment/flood', '-n', ns, '--timeout=90s');
    await page.goto(`/ui/object/deployments.apps/${ns}/flood/logs`);
    const log = page.getByRole('log');
    await expect(page.getByText('from 20 containers')).toBeVisible();
    // They arrive fast, and the page goes on answering: its lines are merged by time, the newest are in sight, and only what is in sight is drawn.
    await expect(page.getByText(/[1-9][0-9]?,[0-9]{3} a second/)).toBeVisible({ timeout: 30_000 });
    await page.getByRole('button', { name: 'Times' }).click();
    const seen = await log.locator('.line').evaluateAll((lines) => lines.map((l) => ({ time: l.querySelector('.time')?.textContent ?? '', pod: l.querySelector('.source')?.textContent ?? '', top: l.getBoundingClientRect().top })).sort((a, b) => a.top - b.top));
    expect(seen.length).toBeLessThan(200);
    expect(new Set(seen.map((s) => s.pod)).size).toBeGreaterThan(0);
    expect(seen.map((s) => s.time)).toEqual(seen.map((s) => s.time).toSorted());
    const end = (): Promise<number> => log.evaluate((e) => e.scrollHeight - e.scrollTop - e.clientHeight);
    await expect.poll(end).toBeLessThan(40); // it follows
    // Scrolled up, it stays where it is while lines arrive; what is no longer kept is said.
    await log.hover();
    await page.mouse.wheel(0, -3000);
    const follow = page.getByRole('button', { name: 'Follow' });
    await expect(follow).toHaveAttribute('aria-pressed', 'false');
    // An expression finds the few lines among the many, of each of the pods.
    await page.getByLabel('Expression').fill('line [0-9]+000 of .* MARKED');
    await expect(log.locator('mark').first()).toContainText('MARKED');
    await expect(page.getByText(/^[1-9][0-9,]* lines of [0-9,]+ from 20 containers/)).toBeVisible();
    for (const text of await log.locator('.line .text').allTextContents()) expect(text).toMatch(/ MARKED$/);
    // Fewer lines are no wish to follow, and neither are more again.
    await page.getByLabel('Expression').fill('');
    await expect(follow).toHaveAttribute('aria-pressed', 'false');
    await follow.click();
    await expect(follow).toHaveAttribute('aria-pressed', 'true');
    await expect.poll(end).toBeLessThan(40);
  } finally {
    kubectl('delete', 'namespace', ns, '--wait=false');
  }
});

test('a shell opens in a container', async ({ page }) => {
  const ns = namespace('browser-shell');
  workload(ns, 'box', 1);
  kubectl('rollout', 'status', 'deployment/box', '-n', ns, '--timeout=60s');
  const pod = kubectl('get', 'pods', '-n', ns, '-o', 'jsonpath={.items[0].metadata.name}');
  await page.goto(`/ui/object/pods/${ns}/${pod}/shell`);
  const terminal = page.locator('.xterm');
  await expect(terminal).toContainText(/[#$]/);
  await page.keyboard.type('echo $((6 * 7))-$HOSTNAME; stty size\n');
  await expect(terminal).toContainText(`42-${pod}`);
  await expect(terminal).toContainText(/[2-9][0-9] [0-9]{2,3}/); // the size of the terminal
  await page.keyboard.type('exit\n');
  await expect(page.getByText('The shell has ended.')).toBeVisible();
});

test('a debug container is added, and its shell opened', async ({ page }) => {
  const ns = namespace('browser-debug');
  workload(ns, 'patient', 1);
  kubectl('rollout', 'status', 'deployment/patient', '-n', ns, '--timeout=60s');
  const pod = kubectl('get', 'pods', '-n', ns, '-o', 'jsonpath={.items[0].metadata.name}');
  await page.goto(`/ui/object/pods/${ns}/${pod}`);
  await page.getByRole('button', { name: 'Debug' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Debug' }).click();
  await expect(page.getByRole('combobox', { name: 'Container' })).toHaveValue(/^debug-/);
  await expect(page.locator('.xterm')).toContainText(/[#$]/);
});

test('why a pod does not run', async ({ page }) => {
  const ns = namespace('browser-why');
  applyText(`{apiVersion: v1, kind: Pod, metadata: {name: huge, namespace: ${ns}}, spec: {containers: [{name: app, image: 'busybox:latest', resources: {requests: {memory: 900Gi}}}]}}`);
  await page.goto(`/ui/object/pods/${ns}/huge/why`);
  await expect(page.getByRole('region', { name: 'Why this pod' })).toContainText('Insufficient memory');
  await page.goto('/ui/events');
  await page.getByLabel('Filter').fill('huge FailedScheduling');
  await expect(page.getByText('Insufficient memory').first()).toBeVisible();
});

test('what pods and nodes use stands beside what they request', async ({ page }) => {
  test.setTimeout(200_000);
  const ns = namespace('browser-usage');
  workload(ns, 'busy', 1, 'while true; do :; done');
  kubectl('rollout', 'status', 'deployment/busy', '-n', ns, '--timeout=60s');
  const pod = kubectl('get', 'pods', '-n', ns, '-o', 'jsonpath={.items[0].metadata.name}');
  await page.goto(`/ui/object/pods/${ns}/${pod}`);
  const containers = page.getByRole('region', { name: 'Containers' });
  await expect(containers).toContainText('10 m requested, no limit');
  await expect(containers).toContainText('8 MiB requested, limit 64 MiB');
  await expect(containers).toContainText('used,', { timeout: 45_000 });
  // The masters' own record of the day: of the container, and in the list of who uses most.
  await expect(containers.getByRole('img', { name: /^Processor: .* now, 10 m requested$/ })).toBeVisible({ timeout: 100_000 });
  await expect(containers.getByRole('img', { name: /^Memory: .* now, 8 MiB requested, 64 MiB limit$/ })).toBeVisible();
  await page.goto('/ui/usage');
  await expect(page.getByRole('table').getByRole('row').nth(1)).toContainText('busy'); // nothing else spins
  await expect(page.getByRole('img', { name: /^Processor: .*busy .* now/ })).toBeVisible();
  await page.getByRole('group', { name: 'Of what' }).getByRole('button', { name: 'Namespaces' }).click();
  await expect(page.getByRole('table').getByRole('row').nth(1)).toContainText(ns);
  await page.getByRole('group', { name: 'Of what' }).getByRole('button', { name: 'Nodes' }).click();
  await expect(page.getByRole('table').getByRole('link', { name: 'worker-1' })).toBeVisible();
  for (const path of [`/ui/object/namespaces/-/${ns}`, `/ui/object/deployments.apps/${ns}/busy`, '/ui/object/nodes/-/worker-1']) {
    await page.goto(path);
    await expect(page.getByRole('region', { name: 'Usage' }).getByRole('img', { name: /^Processor: .* now/ })).toBeVisible();
  }
  await page.getByRole('button', { name: 'Hour' }).click();
  await expect(page.getByRole('region', { name: 'Usage' }).getByRole('img', { name: /^Memory: .* now/ })).toBeVisible();
  kubectl('delete', 'namespace', ns, '--wait=false');
  await page.goto('/ui/');
  await expect(page.getByRole('region', { name: 'Workers' }).getByRole('img', { name: /cores in use/ }).first()).toBeVisible({ timeout: 30_000 });
});
