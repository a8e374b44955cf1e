import { accessible, applyText, expect, kubectl, namespace, signIn, test, workload } from './help.js';

// Every page in both themes, on a desktop and on a phone, and some at 200 % zoom, which halves the width that a page has.
const looks = [
  { name: 'desktop, light', colorScheme: 'light', width: 1440, every: true },
  { name: 'phone, dark', colorScheme: 'dark', width: 390, every: true },
  { name: 'desktop, dark', colorScheme: 'dark', width: 1440, every: false },
  { name: '200 % zoom, light', colorScheme: 'light', width: 720, every: false },
] as const;

for (const look of looks) {
  test(`axe finds no barrier, and nothing is wider than the page: ${look.name}`, async ({ page }) => {
    test.setTimeout(120_000);
    const ns = namespace('browser-looks');
    workload(ns, 'web', 1);
    applyText(`{apiVersion: v1, kind: Secret, metadata: {name: key, namespace: ${ns}}, stringData: {a: b}}`);
    kubectl('rollout', 'status', 'deployment/web', '-n', ns, '--timeout=60s');
    const pod = kubectl('get', 'pods', '-n', ns, '-o', 'jsonpath={.items[0].metadata.name}');
    await page.emulateMedia({ colorScheme: look.colorScheme });
    await page.setViewportSize({ width: look.width, height: look.width < 500 ? 844 : 900 });
    await page.goto('/ui/');
    await expect(page.getByRole('button', { name: 'Sign in' })).toBeVisible();
    await accessible(page, 'signing in');
    await choose(page);
    const pages: [string, string][] = [
      ['/ui/', 'text=Masters healthy'], ['/ui/list/pods', `[role=grid] a`], ['/ui/list/deployments.apps?q=nothing-is-called-so', 'text=Nothing matches'], ['/ui/map', 'section.place a'], ['/ui/usage', 'h1'], ['/ui/events', 'h1'], ['/ui/timeline', 'main li'], ['/ui/kinds', 'td'], ['/ui/apply?kind=deployments.apps', 'textarea'],
      [`/ui/object/deployments.apps/${ns}/web`, 'text=Conditions'], [`/ui/object/pods/${ns}/${pod}`, 'text=Containers'], [`/ui/object/pods/${ns}/${pod}/logs`, '.line'], [`/ui/object/pods/${ns}/${pod}/yaml`, 'pre'],
      [`/ui/object/pods/${ns}/${pod}/why`, 'dl'], [`/ui/object/pods/${ns}/${pod}/events`, 'main li'], [`/ui/object/pods/${ns}/${pod}/changes`, 'summary'], [`/ui/object/secrets/${ns}/key`, 'text=This Secret is hidden'], ['/ui/object/nodes/-/worker-1', 'text=Allocatable'], ['/ui/object/pods/none/none', 'text=There is no Pod'], ['/ui/docs/getting-started', 'main h1'],
    ];
    for (const [i, [path, ready]] of pages.entries()) {
      if (!look.every && i % 4) continue;
      await page.goto(path);
      await expect(page.locator(ready).first()).toBeVisible();
      await accessible(page, path);
      const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      expect.soft(over, `${path} is wider than the page`).toBeLessThanOrEqual(0);
    }
    await page.goto(`/ui/object/deployments.apps/${ns}/web`);
    await page.getByRole('button', { name: 'Delete' }).click();
    await expect(page.getByRole('dialog')).toContainText('These are deleted');
    await accessible(page, 'a question');
    await page.keyboard.press('Escape');
    await page.keyboard.press(':');
    await expect(page.getByRole('combobox', { name: 'Go to' })).toBeVisible();
    await accessible(page, 'the palette');
    await page.keyboard.press('Escape');
    await page.keyboard.press('?');
    await accessible(page, 'the keys');
  });
}

async function choose(page: Parameters<typeof signIn>[0]): Promise<void> {
  const { kubeconfig } = await import('./help.js');
  await page.setInputFiles('input[type=file]', kubeconfig);
  await expect(page.getByRole('banner')).toBeVisible();
}

test('the keyboard alone leads to a pod and its parts', async ({ page }) => {
  const ns = namespace('browser-keys');
  workload(ns, 'keyed', 1);
  kubectl('rollout', 'status', 'deployment/keyed', '-n', ns, '--timeout=60s');
  await signIn(page);
  await expect(page.getByRole('navigation', { name: 'Pages' }).getByRole('link', { name: 'Pods' })).toBeVisible();
  await page.keyboard.press(':');
  await page.keyboard.type('po');
  await expect(page.getByRole('listbox').getByRole('option').first()).toContainText('Pod');
  await page.keyboard.press('Enter');
  await expect(page.getByRole('heading', { level: 1, name: 'Pods' })).toBeVisible();
  await page.keyboard.press('/');
  await page.keyboard.type(`ns:${ns} keyed`);
  await expect(page.getByRole('grid').getByRole('link')).toHaveCount(1);
  await page.keyboard.press('Enter');
  await page.keyboard.press('j');
  await page.keyboard.press('y');
  await expect(page.getByRole('region', { name: 'Manifest' })).toContainText('kind: Pod');
  await page.keyboard.press('l');
  await expect(page.getByRole('log')).toContainText('line');
  await page.keyboard.press('w');
  await expect(page.getByRole('region', { name: 'Why this pod' })).toBeVisible();
  await page.keyboard.press('d');
  await expect(page.getByRole('region', { name: 'Containers' })).toBeVisible();
  await page.keyboard.press('?');
  await expect(page.getByRole('dialog')).toContainText('Logs');
  await page.keyboard.press('Escape');
  await expect(page.getByRole('dialog')).toHaveCount(0);
});
