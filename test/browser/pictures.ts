// Not a test: `make pictures` photographs every page, on a desktop and a phone, in both themes, into the folder that PICTURES names, for people to look at.
import type { Browser, Page } from '@playwright/test';
import { applyText, expect, kubeconfig, kubectl, namespace, test, workload } from './help.js';

const folder = process.env['PICTURES'] ?? '';
const looks = [
  { name: 'desktop-light', colorScheme: 'light', width: 1440, height: 900 },
  { name: 'desktop-dark', colorScheme: 'dark', width: 1440, height: 900 },
  { name: 'phone-light', colorScheme: 'light', width: 390, height: 844 },
  { name: 'phone-dark', colorScheme: 'dark', width: 390, height: 844 },
] as const;
const ns = 'shop';

/** A small shop, some of which fails. */
function shop(): string {
  namespace(ns);
  for (const [name, replicas] of [['web', 6], ['cart', 3], ['search', 4], ['payments', 2]] as const) {
    workload(ns, name, replicas, `i=0; while true; do i=$((i+1)); echo "GET /${name}/items/$((i * 7 % 100)) 200 $((i * 13 % 40))ms"; [ $((i % 9)) = 0 ] && echo "WARN slow answer of the database: $((i * 37 % 900)) ms" >&2; sleep 0.$((i % 5 + 3)); done`);
    applyText(`{apiVersion: v1, kind: Service, metadata: {name: ${name}, namespace: ${ns}}, spec: {selector: {app: ${name}}, ports: [{name: http, port: 80, targetPort: 8080}]}}`);
  }
  workload(ns, 'mailer', 1, 'echo "panic: no address of a mail server"; exit 2');
  workload(ns, 'busy', 1, 'while true; do for i in 1 2 3 4 5 6 7 8 9; do :; done; usleep 300; done');
  applyText(`
{apiVersion: v1, kind: Pod, metadata: {name: www, namespace: ${ns}, labels: {app: www}}, spec: {terminationGracePeriodSeconds: 0, containers: [{name: httpd, image: 'busybox:latest', imagePullPolicy: IfNotPresent, command: [sh, -c, 'mkdir /www; echo "<h1>Hello from a pod</h1>" > /www/index.html; exec httpd -f -p 8080 -h /www'], ports: [{name: http, containerPort: 8080}]}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: huge, namespace: ${ns}}, spec: {containers: [{name: app, image: 'busybox:latest', resources: {requests: {memory: 900Gi}}}]}}
---
{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: db, namespace: ${ns}}, spec: {serviceName: db, replicas: 2, selector: {matchLabels: {app: db}}, template: {metadata: {labels: {app: db}}, spec: {terminationGracePeriodSeconds: 0, containers: [{name: db, image: 'busybox:latest', imagePullPolicy: IfNotPresent, command: [sleep, '86400'], resources: {requests: {cpu: 50m, memory: 32Mi}, limits: {memory: 128Mi}}, volumeMounts: [{name: data, mountPath: /data}]}]}}, volumeClaimTemplates: [{metadata: {name: data}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 10Mi}}}}]}}
---
{apiVersion: batch/v1, kind: CronJob, metadata: {name: report, namespace: ${ns}}, spec: {schedule: '*/5 * * * *', jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: report, image: 'busybox:latest', imagePullPolicy: IfNotPresent, command: ['true']}]}}}}}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: settings, namespace: ${ns}}, data: {colour: green, 'app.properties': "db.host=db-0.db\\ndb.pool=20\\ncache=on"}}
---
{apiVersion: v1, kind: Secret, metadata: {name: database, namespace: ${ns}}, stringData: {user: shop, password: not-to-be-seen}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: to-payments, namespace: ${ns}}, spec: {podSelector: {matchLabels: {app: payments}}, ingress: [{from: [{podSelector: {matchLabels: {app: cart}}}]}]}}
---
{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: crates.shop.example}, spec: {group: shop.example, scope: Namespaced, names: {plural: crates, singular: crate, kind: Crate}, versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {size: {type: string}}}}}}, additionalPrinterColumns: [{name: Size, type: string, jsonPath: .spec.size}]}]}}
`);
  kubectl('wait', '--for=condition=Established', 'crd/crates.shop.example', '--timeout=30s');
  for (const size of ['small', 'large']) applyText(`{apiVersion: shop.example/v1, kind: Crate, metadata: {name: crate-${size}, namespace: ${ns}}, spec: {size: ${size}}}`);
  for (const name of ['web', 'cart', 'search', 'payments']) kubectl('rollout', 'status', `deployment/${name}`, '-n', ns, '--timeout=120s');
  kubectl('rollout', 'status', 'statefulset/db', '-n', ns, '--timeout=120s');
  return kubectl('get', 'pods', '-n', ns, '-l', 'app=web', '-o', 'jsonpath={.items[0].metadata.name}');
}

/** The pages: a name, an address, what shows that they are there, and what is done first. */
function pages(pod: string, crasher: string): [string, string, string, ((page: Page) => Promise<void>)?][] {
  const object = (kind: string, name: string, part = ''): string => `/ui/object/${kind}/${ns}/${name}${part}`;
  const release = `{apiVersion: v1, kind: ConfigMap, metadata: {name: settings, namespace: ${ns}}, data: {colour: blue, size: large}}\n---\n{apiVersion: v1, kind: Secret, metadata: {name: database, namespace: ${ns}}, stringData: {password: another-one}}\n`;
  return [
    ['overview', '/ui/', 'text=Masters healthy'],
    ['pods', '/ui/list/pods', '[role=grid] a'],
    ['pods-nothing', '/ui/list/pods?q=nothing-is-so', 'text=Nothing matches'],
    ['deployments', '/ui/list/deployments.apps', '[role=grid] a'],
    ['services', '/ui/list/services', '[role=grid] a'],
    ['nodes', '/ui/list/nodes', '[role=grid] a'],
    ['secrets', '/ui/list/secrets', '[role=grid] a'],
    ['crates', '/ui/list/crates.shop.example', '[role=grid] a'],
    ['empty', '/ui/list/ingresses.networking.k8s.io', 'main'],
    ['no-kind', '/ui/list/nothing.example', 'main'],
    ['kinds', '/ui/kinds', 'td'],
    ['map', '/ui/map', 'section.place'],
    ['map-policy', '/ui/map', 'section.place', (page) => page.getByLabel('Light up').selectOption({ label: `${ns}/to-payments` }).then(() => undefined)],
    ['usage', '/ui/usage', 'table, .empty'],
    ['usage-pods', '/ui/usage?of=pods&by=memory', 'table, .empty'],
    ['events', '/ui/events', 'main li, main .empty'],
    ['timeline', '/ui/timeline', 'main li'],
    ['deployment', object('deployments.apps', 'web'), 'text=Conditions'],
    ['deployment-scale', object('deployments.apps', 'web'), 'text=Conditions', (page) => page.getByRole('button', { name: 'Scale' }).click()],
    ['deployment-delete', object('deployments.apps', 'web'), 'text=Conditions', async (page) => { await page.getByRole('button', { name: 'Delete' }).click(); await expect(page.getByRole('dialog')).toContainText('These are deleted'); }],
    ['logs', object('deployments.apps', 'web', '/logs'), '.line'],
    ['logs-filter', object('deployments.apps', 'web', '/logs'), '.line', (page) => page.getByLabel('Expression').fill('WARN|items/7')],
    ['pod', object('pods', pod), 'text=Containers'],
    ['pod-crashing', object('pods', crasher), 'text=Containers'],
    ['pod-yaml', object('pods', pod, '/yaml'), 'pre'],
    ['pod-why', object('pods', 'huge', '/why'), 'dl'],
    ['pod-shell', object('pods', pod, '/shell'), '.xterm'],
    ['pod-events', object('pods', crasher, '/events'), 'main li'],
    ['pod-changes', object('pods', pod, '/changes'), 'summary'],
    ['pod-port', object('pods', 'www', '/port?port=8080'), 'iframe'],
    ['yaml-edit', object('configmaps', 'settings', '/yaml'), 'pre', async (page) => {
      await page.getByRole('button', { name: 'Edit' }).click();
      const text = page.getByRole('textbox', { name: 'Manifest' });
      await text.fill((await text.inputValue()).replace('colour: green', 'colour: blue'));
      await page.getByRole('button', { name: 'See what would change' }).click();
      await expect(page.getByRole('alert')).toBeVisible();
    }],
    ['configmap', object('configmaps', 'settings'), 'text=green'],
    ['secret', object('secrets', 'database'), 'text=This Secret is hidden'],
    ['secret-shown', object('secrets', 'database'), 'text=This Secret is hidden', (page) => page.getByRole('button', { name: 'Show it' }).click()],
    ['statefulset', object('statefulsets.apps', 'db'), 'main h1'],
    ['service', object('services', 'web'), 'main h1'],
    ['claim', object('persistentvolumeclaims', 'data-db-0'), 'main h1'],
    ['node', '/ui/object/nodes/-/worker-1', 'text=Allocatable'],
    ['no-pod', '/ui/object/pods/none/none', 'text=There is no Pod'],
    ['apply', '/ui/apply', 'textarea'],
    ['apply-difference', '/ui/apply', 'textarea', async (page) => {
      await page.getByRole('textbox', { name: 'Manifests' }).fill(release);
      await page.getByRole('button', { name: 'See what would change' }).click();
      await page.getByLabel('Take over the fields').check();
      await page.getByRole('button', { name: 'See what would change' }).click();
      await expect(page.getByText('would change,')).toBeVisible();
    }],
    ['docs', '/ui/docs/', 'main h1'],
    ['docs-page', '/ui/docs/getting-started', 'main h1'],
    ['palette', '/ui/', 'text=Masters healthy', async (page) => { await page.keyboard.press(':'); await page.getByRole('combobox', { name: 'Go to' }).fill('dep'); }],
    ['keys', '/ui/list/pods', '[role=grid] a', (page) => page.keyboard.press('?')],
    ['user', '/ui/', 'text=Masters healthy', (page) => page.getByRole('button', { name: 'kubernetes-admin' }).click()],
    ['offline', '/ui/', 'text=Masters healthy', async (page) => { await page.context().setOffline(true); await expect(page.getByText('No master answers')).toBeVisible(); }],
  ];
}

/** What grows with the nodes. */
const grown: ReturnType<typeof pages> = [
  ['100-overview', '/ui/', 'text=Masters healthy'],
  ['100-map', '/ui/map', 'section.place'],
  ['100-map-service', '/ui/map', 'section.place', (page) => page.getByLabel('Light up').selectOption({ label: `${ns}/web` }).then(() => undefined)],
  ['100-nodes', '/ui/list/nodes', '[role=grid] a'],
  ['100-pods', '/ui/list/pods', '[role=grid] a'],
  ['100-usage', '/ui/usage?of=nodes', 'table, .empty'],
];

async function photograph(browser: Browser, look: (typeof looks)[number], list: ReturnType<typeof pages>): Promise<void> {
  const context = await browser.newContext({ ignoreHTTPSErrors: true, colorScheme: look.colorScheme, viewport: { width: look.width, height: look.height } });
  const page = await context.newPage();
  const only = process.env['ONLY'] ? new RegExp(process.env['ONLY']) : /./;
  const keep = async (name: string): Promise<void> => {
    // Pages load what they show in parts. A picture of an unfinished one would mislead; a log never finishes.
    await page.waitForLoadState('networkidle', { timeout: 1500 }).catch(() => {});
    await page.screenshot({ path: `${folder}/${look.name}/${name}.png` });
  };
  await page.goto('/ui/');
  await expect(page.getByRole('button', { name: 'Sign in' })).toBeVisible();
  if (only.test('signin')) {
    await keep('signin');
    for (const way of ['Token', 'Certificate']) {
      await page.getByRole('button', { name: way }).first().click();
      await keep(`signin-${way.toLowerCase()}`);
    }
    await page.getByRole('button', { name: 'Token' }).click();
    await page.getByLabel('Bearer token').fill('nonsense');
    await page.getByRole('button', { name: 'Sign in' }).click();
    await expect(page.getByRole('alert')).toBeVisible();
    await keep('signin-refused');
    await page.goto('/ui/');
  }
  await page.setInputFiles('input[type=file]', kubeconfig);
  await expect(page.getByRole('banner')).toBeVisible();
  for (const [name, path, ready, first] of list) {
    if (!only.test(name)) continue;
    try {
      await page.goto(path);
      await expect(page.locator(ready).first()).toBeVisible();
      await first?.(page);
    } catch (e) {
      expect.soft(String(e), `${look.name}: ${name}`).toBe('');
    }
    await keep(name);
    await page.context().setOffline(false);
  }
  await context.close();
}

test('every page', async ({ browser }) => {
  test.setTimeout(900_000);
  const pod = shop();
  const crasher = kubectl('get', 'pods', '-n', ns, '-l', 'app=mailer', '-o', 'jsonpath={.items[0].metadata.name}');
  for (const look of looks) await photograph(browser, look, pages(pod, crasher));
});

test('many nodes', async ({ browser }) => {
  test.setTimeout(600_000);
  namespace(ns);
  for (const [name, replicas] of [['web', 400], ['cart', 300], ['search', 500], ['payments', 40]] as const) {
    workload(ns, name, replicas);
    applyText(`{apiVersion: v1, kind: Service, metadata: {name: ${name}, namespace: ${ns}}, spec: {selector: {app: ${name}}, ports: [{name: http, port: 80}]}}`);
  }
  applyText(`{apiVersion: v1, kind: Pod, metadata: {name: huge, namespace: ${ns}}, spec: {containers: [{name: app, image: 'busybox:latest', resources: {requests: {memory: 9000Gi}}}]}}`);
  for (const name of ['web', 'cart', 'search', 'payments']) kubectl('rollout', 'status', `deployment/${name}`, '-n', ns, '--timeout=50s');
  for (const look of looks) await photograph(browser, look, grown);
});
