import type { Locator } from '@playwright/test';
import { applyText, expect, kubectl, namespace, run, signIn, signInAs, test } from './help.js';

/** How many masters are well; 0 if none answers. */
function healthy(): number {
  try {
    const { members } = JSON.parse(run(['kubectl', 'get', '--raw', '/kontiki/v1/cluster'])) as { members: { health: string }[] };
    return members.filter((m) => m.health === 'ok').length;
  } catch {
    return 0;
  }
}

const dir = process.env['CLUSTER_DIR'] ?? '';

test('the timeline says who changed what, also after the masters were restarted, and no value of a Secret', async ({ page }) => {
  test.setTimeout(150_000);
  const ns = namespace('browser-timeline');
  applyText(`{apiVersion: v1, kind: Secret, metadata: {name: hidden, namespace: ${ns}}, stringData: {password: first-value}}`);
  applyText(`{apiVersion: v1, kind: ConfigMap, metadata: {name: seen, namespace: ${ns}}, data: {color: red}}`);
  run(['kubectl', 'apply', '--server-side', '--field-manager=painter', '--force-conflicts', '-f', '-'], `{apiVersion: v1, kind: ConfigMap, metadata: {name: seen, namespace: ${ns}}, data: {color: blue}}`);
  applyText(`{apiVersion: v1, kind: Secret, metadata: {name: hidden, namespace: ${ns}}, stringData: {password: second-value}}`);
  const what = page.getByRole('region', { name: 'What happened' });
  /** Entries with both texts. Those of kubectl's own making are not the test's. */
  const entry = (one: string, two: string): Locator => what.getByRole('listitem').filter({ hasText: one }).filter({ hasText: two });
  await signIn(page);
  await page.goto('/ui/timeline?q=painter');
  await expect(entry('by painter', 'data.color').getByRole('link', { name: 'seen' })).toBeVisible();
  await page.getByRole('textbox', { name: 'Filter' }).fill(`hidden ${ns}`);
  await expect(entry('Changed', 'data.password')).toBeVisible();
  await expect(what).not.toContainText('-value');

  // Each master is restarted in turn, which signs nobody out.
  for (const name of ['master-1', 'master-2', 'master-3']) {
    run(['dev', '--data-dir', dir, 'kill', name]);
    run(['dev', '--data-dir', dir, 'start', name]);
    await expect.poll(healthy, { timeout: 40_000 }).toBe(3);
  }
  await page.goto(`/ui/object/configmaps/${ns}/seen/changes`);
  await expect(entry('by painter', 'data.color')).toBeVisible();
  await expect(entry('Created', 'by kubectl')).toBeVisible();
  kubectl('annotate', 'configmap', 'seen', '-n', ns, 'later=yes');
  await expect(entry('by kubectl-annotate', 'metadata.annotations.later')).toBeVisible();
});

test('the timeline has nothing that the user may not read', async ({ page }) => {
  const ns = namespace('browser-timeline-rights');
  applyText(`{apiVersion: v1, kind: Secret, metadata: {name: unseen, namespace: ${ns}}, stringData: {a: b}}`);
  applyText(`{apiVersion: v1, kind: ConfigMap, metadata: {name: plain, namespace: ${ns}}, data: {a: b}}`);
  applyText(`{apiVersion: v1, kind: ServiceAccount, metadata: {name: reader, namespace: ${ns}}}`);
  kubectl('create', 'role', 'reader', '-n', ns, '--verb=get,list', '--resource=configmaps');
  kubectl('create', 'rolebinding', 'reader', '-n', ns, '--role=reader', `--serviceaccount=${ns}:reader`);
  await signInAs(page, ns, 'reader');
  await page.goto('/ui/timeline');
  const what = page.getByRole('region', { name: 'What happened' });
  await expect(what.getByRole('link', { name: 'plain' })).toBeVisible();
  await expect(what).not.toContainText('unseen');
  await expect(what).not.toContainText('kube-system');
});
