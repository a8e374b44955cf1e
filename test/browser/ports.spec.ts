import { accessible, applyText, expect, kubectl, namespace, signIn, test } from './help.js';

// A page that tries what a hostile pod would, and says what came of it. Its server says which headers a request had.
const hostile = `<!doctype html><title>hostile</title><link rel=stylesheet href="style.css"><p id=mark>served by the pod</p><form id=form action="cgi-bin/headers"><button>Send</button></form><pre id=out></pre>
<script type="module">import { loaded } from './module.js'; window.moduleLoaded = loaded;</script>
<script>
(async () => {
  const out = {};
  const attempt = async (name, what) => { try { out[name] = 'REACHED ' + await what(); } catch (e) { out[name] = 'failed: ' + e.name; } };
  await attempt('cookie', async () => document.cookie);
  await attempt('storage', async () => localStorage.length);
  await attempt('page', async () => parent.document.title);
  await attempt('navigate', async () => { top.location.href = '/ui/list/secrets'; });
  await attempt('window', async () => { const w = open('/ui/'); if (!w) throw new Error('none'); return w; });
  await attempt('worker', async () => navigator.serviceWorker.register('sw.js'));
  await attempt('session', async () => (await fetch('/ui/session', { headers: { 'X-Kontiki-Session': '-' } })).text());
  await attempt('plain session', async () => (await fetch('/ui/session', { credentials: 'include' })).text());
  await attempt('api', async () => (await fetch('/ui/api/api/v1/secrets', { credentials: 'include' })).text());
  await attempt('grant', async () => (await fetch('/ui/port', { method: 'POST', credentials: 'include', body: '{}' })).text());
  await attempt('api directly', async () => (await fetch('/api/v1/namespaces/kube-system/secrets', { credentials: 'include' })).text());
  await attempt('frame', () => new Promise((done, no) => { const f = document.createElement('iframe'); f.src = '/ui/'; f.onload = () => { try { f.contentDocument.title; done('it'); } catch (e) { no(e); } }; document.body.append(f); setTimeout(() => no(new Error('none')), 3000); }));
  out.origin = String(self.origin);
  try { out.headers = await (await fetch('cgi-bin/headers', { headers: { 'X-App': 'kept', 'Impersonate-User': 'root' } })).text(); } catch (e) { out.headers = String(e); }
  out.module = await new Promise((done) => setTimeout(() => done(window.moduleLoaded), 500));
  document.getElementById('out').textContent = JSON.stringify(out);
})();
</script>`;

test('a port opens by a link, and what it serves cannot act as the user', async ({ page, context, complaints }) => {
  const ns = namespace('browser-port');
  applyText(
    JSON.stringify({
      apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'www', namespace: ns },
      data: {
        'index.html': hostile, 'style.css': '#mark { color: rgb(1, 2, 3); }', 'module.js': 'export const loaded = "module";', 'sw.js': '',
        headers: '#!/bin/sh\nprintf "Set-Cookie: __Secure-kontiki=evil; Path=/ui/; Secure; SameSite=None\\r\\nClear-Site-Data: \\"cookies\\"\\r\\nContent-Type: text/plain\\r\\n\\r\\n"\nenv\n',
      },
    }),
  );
  applyText(
    JSON.stringify({
      apiVersion: 'v1', kind: 'Pod', metadata: { name: 'web', namespace: ns, labels: { app: 'web' } },
      spec: {
        terminationGracePeriodSeconds: 0,
        containers: [{ name: 'app', image: 'busybox:latest', imagePullPolicy: 'IfNotPresent', command: ['sh', '-c', 'mkdir -p /www/cgi-bin && cp /in/*.* /www && cp /in/headers /www/cgi-bin && chmod 755 /www/cgi-bin/headers && exec httpd -f -p 8080 -h /www'], ports: [{ name: 'http', containerPort: 8080 }], readinessProbe: { httpGet: { path: '/style.css', port: 8080 }, periodSeconds: 1 }, volumeMounts: [{ name: 'in', mountPath: '/in' }] }],
        volumes: [{ name: 'in', configMap: { name: 'www' } }],
      },
    }),
  );
  applyText(`{apiVersion: v1, kind: Service, metadata: {name: web, namespace: ${ns}}, spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: http}]}}`);
  kubectl('wait', '--for=condition=Ready', 'pod/web', '-n', ns, '--timeout=60s');
  await signIn(page);
  const before = (await context.cookies()).filter((c) => c.name.startsWith('__Secure-kontiki'));
  const asked: string[] = [];
  page.on('request', (r) => asked.push(r.url()));

  await page.goto(`/ui/object/pods/${ns}/web`);
  await page.getByRole('region', { name: 'Containers' }).getByRole('link', { name: 'http 8080/TCP' }).click();
  await expect(page.getByText(`Served by the pod web in ${ns}`)).toBeVisible();
  expect(page.url()).toMatch(/\/port\?port=8080$/); // the address has no secret
  const frame = page.frameLocator('iframe');
  await expect(frame.locator('#mark')).toHaveCSS('color', 'rgb(1, 2, 3)');
  await expect(frame.locator('#out')).toContainText('origin', { timeout: 30_000 });
  const out = JSON.parse((await frame.locator('#out').textContent()) ?? '') as Record<string, string>;
  expect(out['origin']).toBe('null');
  expect(out['module']).toBe('module');
  for (const name of ['cookie', 'storage', 'page', 'navigate', 'window', 'worker', 'session', 'plain session', 'api', 'grant', 'api directly', 'frame']) expect.soft(out[name], name).toMatch(/^failed/);
  // The pod's server has got nothing of the user's.
  expect(out['headers']).toContain('HTTP_X_APP=kept');
  expect(out['headers']).not.toMatch(/COOKIE|AUTHORIZATION|KONTIKI_SESSION|IMPERSONATE|BEGIN CERTIFICATE/i);
  expect((await context.cookies()).filter((c) => c.name.startsWith('__Secure-kontiki')).map((c) => c.value)).toEqual(before.map((c) => c.value)); // none was set or cleared
  expect(page.url()).toContain(`/ui/object/pods/${ns}/web/port`); // it could not leave
  await frame.getByRole('button', { name: 'Send' }).click();
  await expect(frame.locator('body')).toContainText('REQUEST_METHOD=GET');

  // The frame's address is refused as a page of its own, also by who has it and is signed in.
  const address = asked.find((u) => u.includes('/ui/port/') && u.endsWith('/'));
  if (!address) throw new Error(`no address of a frame among ${asked.join(' ')}`);
  const alone = await context.newPage();
  const answer = await alone.goto(address);
  expect(answer?.status()).toBe(403);
  await alone.close();

  // A service's port, too; who may not use the proxy is not offered it.
  await page.goto(`/ui/object/services/${ns}/web`);
  await page.getByRole('navigation', { name: 'Parts' }).getByRole('link', { name: 'Port' }).click();
  await expect(page.frameLocator('iframe').locator('#mark')).toBeVisible();
  await accessible(page, 'a port', 'iframe'); // what the pod serves is its own
  await page.goto(`/ui/object/pods/${ns}/web/port?port=1`);
  await expect(page.frameLocator('iframe').locator('body')).toContainText('error trying to reach service');
  complaints.length = 0; // what the hostile page tried is complained about
});

test('who may not use the proxy of pods is not offered their ports', async ({ page }) => {
  const ns = namespace('browser-port-rights');
  applyText(`
apiVersion: v1
kind: ServiceAccount
metadata: {name: reader, namespace: ${ns}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader, namespace: ${ns}}
rules:
- {apiGroups: [""], resources: [pods], verbs: [get, list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reader, namespace: ${ns}}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}
subjects: [{kind: ServiceAccount, name: reader, namespace: ${ns}}]
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: ${ns}}
spec: {terminationGracePeriodSeconds: 0, containers: [{name: app, image: 'busybox:latest', imagePullPolicy: IfNotPresent, command: [sleep, '3600'], ports: [{name: http, containerPort: 8080}]}]}
`);
  const { signInAs } = await import('./help.js');
  await signInAs(page, ns, 'reader');
  await page.goto(`/ui/object/pods/${ns}/web`);
  await expect(page.getByRole('region', { name: 'Containers' })).toContainText('http 8080/TCP');
  await expect(page.getByRole('link', { name: 'http 8080/TCP' })).toHaveCount(0);
  await expect(page.getByRole('navigation', { name: 'Parts' }).getByRole('link', { name: 'Port' })).toHaveCount(0);
  await page.goto(`/ui/object/pods/${ns}/web/port?port=8080`);
  await expect(page.getByText('This is not offered.')).toBeVisible();
});
