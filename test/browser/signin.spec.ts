import { readFileSync } from 'node:fs';
import { load } from './yaml.js';
import { applyText, expect, kubeconfig, kubectl, namespace, signIn, signInAs, test } from './help.js';

test('a kubeconfig signs in, and nothing of it stays in the browser', async ({ page, context }) => {
  const sent: string[] = [];
  page.on('request', (r) => sent.push(`${r.url()} ${r.postData() ?? ''}`));
  await signIn(page);
  const key = load(readFileSync(kubeconfig, 'utf8'), 'client-key-data');
  expect(key.length).toBeGreaterThan(100);
  const pem = Buffer.from(key, 'base64').toString('utf8');
  const middle = pem.split('\n')[1] ?? '';
  expect(middle.length).toBeGreaterThan(40);
  for (const r of sent) expect(r).not.toContain(middle); // the private key is not sent
  expect(await page.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie, location.href]))).not.toMatch(/CERTIFICATE|PRIVATE|eyJ|kontiki-session/);
  const cookies = (await context.cookies()).filter((c) => c.name.startsWith('__Secure-kontiki'));
  expect(cookies.length).toBeGreaterThan(0);
  for (const c of cookies) expect(c).toMatchObject({ httpOnly: true, secure: true, sameSite: 'Strict', path: '/ui/' });

  await page.reload(); // the session outlives a reload
  await expect(page.getByRole('banner').getByText('kubernetes-admin')).toBeVisible();
  await page.getByRole('button', { name: 'kubernetes-admin' }).click();
  await page.getByRole('button', { name: 'Sign out' }).click();
  await expect(page.getByRole('button', { name: 'Sign in' })).toBeVisible();
  expect((await context.cookies()).filter((c) => c.name.startsWith('__Secure-kontiki'))).toEqual([]);
  await page.goto('/ui/list/pods');
  await expect(page.getByRole('button', { name: 'Sign in' })).toBeVisible();
});

test('a wrong token is refused with a reason', async ({ page }) => {
  await page.goto('/ui/');
  await page.getByRole('button', { name: 'Token' }).click();
  await page.getByLabel('Bearer token').fill('nonsense');
  await page.getByRole('button', { name: 'Sign in' }).click();
  await expect(page.getByRole('alert')).toContainText('does not accept this credential');
});

test('a certificate and its key sign in, and the key is not sent', async ({ page }) => {
  const sent: string[] = [];
  page.on('request', (r) => sent.push(`${r.url()} ${r.postData() ?? ''}`));
  const text = readFileSync(kubeconfig, 'utf8');
  const pem = (name: string): string => Buffer.from(load(text, name), 'base64').toString('utf8');
  await page.goto('/ui/');
  await page.getByRole('button', { name: 'Certificate' }).click();
  await page.getByLabel('Certificate (PEM)').fill(pem('client-certificate-data'));
  await page.getByLabel('Private key (PEM)').fill(pem('client-key-data'));
  await page.getByRole('button', { name: 'Sign in' }).click();
  await expect(page.getByRole('banner').getByText('kubernetes-admin')).toBeVisible();
  const middle = pem('client-key-data').split('\n')[1] ?? '';
  expect(middle.length).toBeGreaterThan(40);
  for (const r of sent) expect(r).not.toContain(middle);
});

test('what is no kubeconfig is refused with a reason', async ({ page }) => {
  await page.goto('/ui/');
  await page.setInputFiles('input[type=file]', { name: 'x.yaml', mimeType: 'text/yaml', buffer: Buffer.from('a: [1') });
  await expect(page.getByRole('alert')).toContainText('This is not YAML');
});

test('a user sees and is offered what it may do, and no more', async ({ page }) => {
  const ns = namespace('browser-rights');
  applyText(`
apiVersion: v1
kind: ServiceAccount
metadata: {name: reader, namespace: ${ns}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader, namespace: ${ns}}
rules:
- {apiGroups: [""], resources: [pods, configmaps], verbs: [get, list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reader, namespace: ${ns}}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}
subjects: [{kind: ServiceAccount, name: reader, namespace: ${ns}}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: seen, namespace: ${ns}}
data: {colour: green}
---
apiVersion: v1
kind: Secret
metadata: {name: unseen, namespace: ${ns}}
`);
  await signInAs(page, ns, 'reader');
  await expect(page.getByText('You may not see the cluster as a whole.')).toBeVisible();
  await page.getByPlaceholder('Namespace').fill(ns);
  await page.getByPlaceholder('Namespace').press('Enter');
  const pages = page.getByRole('navigation', { name: 'Pages' });
  await expect(pages.getByRole('link', { name: 'Config maps' })).toBeVisible();
  for (const name of ['Secrets', 'Deployments', 'Nodes']) await expect(pages.getByRole('link', { name, exact: true })).toHaveCount(0);
  await pages.getByRole('link', { name: 'Config maps' }).click();
  await expect(page.getByRole('link', { name: 'Create' })).toHaveCount(0);
  await page.getByRole('link', { name: 'seen', exact: true }).click();
  await expect(page.getByText('green')).toBeVisible();
  await expect(page.getByRole('group', { name: 'Actions' }).getByRole('button')).toHaveCount(0);

  await page.goto('/ui/list/secrets');
  await expect(page.getByRole('alert')).toContainText('You may not list secrets');

  // Another right is offered once it is given.
  applyText(`
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader, namespace: ${ns}}
rules:
- {apiGroups: [""], resources: [pods, configmaps], verbs: [get, list, watch]}
- {apiGroups: [""], resources: [configmaps], verbs: [delete]}
`);
  await page.goto(`/ui/object/configmaps/${ns}/seen`);
  await expect(page.getByRole('button', { name: 'Delete' })).toBeVisible();

  // Who may read an object by its name, but not list, sees it.
  applyText(`
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader, namespace: ${ns}}
rules:
- {apiGroups: [""], resources: [configmaps], resourceNames: [seen], verbs: [get]}
`);
  await page.reload();
  await expect(page.getByText('green')).toBeVisible();
  await expect(page.getByRole('button', { name: 'Delete' })).toHaveCount(0);
  await page.goto('/ui/list/configmaps');
  await expect(page.getByRole('alert')).toContainText('You may not list configmaps');

  // A credential that is revoked ends the session.
  kubectl('delete', 'serviceaccount', 'reader', '-n', ns);
  await page.reload();
  await expect(page.getByRole('button', { name: 'Sign in' })).toBeVisible();
});
