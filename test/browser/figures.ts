// Not a test of its own: `make dashboard-figures` measures the list of 30,000 pods, which the Go test has made, and prints what docs/dashboard.md has.
import type { CDPSession, Page } from '@playwright/test';
import { readFileSync } from 'node:fs';
import { expect, signIn, test } from './help.js';

const pods = Number(process.env['PODS'] ?? '0');
const figure = (what: string, value: string): void => console.log(`figure: ${what}: ${value}`);

/** The memory of the page's process that no other process shares, in MB. */
async function privateMemory(browser: CDPSession): Promise<number> {
  const { processInfo } = (await browser.send('SystemInfo.getProcessInfo')) as { processInfo: { type: string; id: number }[] };
  const sizes = processInfo
    .filter((p) => p.type === 'renderer')
    .map((p) => [...readFileSync(`/proc/${p.id}/smaps_rollup`, 'utf8').matchAll(/^Private_\w+:\s+(\d+) kB$/gm)].reduce((sum, m) => sum + Number(m[1]), 0) * 1024);
  return Math.max(...sizes) / 1e6;
}

async function heap(page: Page): Promise<number> {
  const session = await page.context().newCDPSession(page);
  await session.send('HeapProfiler.collectGarbage');
  const { usedSize } = (await session.send('Runtime.getHeapUsage')) as { usedSize: number };
  await session.detach();
  return usedSize / 1e6;
}

test('a list of many pods', async ({ page, browser }) => {
  test.setTimeout(240_000);
  expect(pods).toBeGreaterThan(0);
  const processes = await browser.newBrowserCDPSession();
  await page.goto('about:blank');
  figure('private memory of an empty page', `${(await privateMemory(processes)).toFixed(0)} MB`);
  // The namespaces are all that the page reads of the cluster before the list of pods is opened.
  await signIn(page);
  await page.goto('/ui/kinds');
  await expect(page.locator('td').first()).toBeVisible();
  const grid = page.getByRole('grid', { name: 'Pods' });
  const link = page.getByRole('navigation', { name: 'Pages' }).getByRole('link', { name: 'Pods', exact: true });
  const [first, all] = await page.evaluate(
    async ([rows]) => {
      const seen = (what: () => boolean): Promise<number> => new Promise((done) => { const look = (): void => { if (what()) done(performance.now()); else requestAnimationFrame(look); }; look(); });
      const a = Array.from(document.querySelectorAll<HTMLAnchorElement>('nav a')).find((l) => l.textContent === 'Pods');
      const start = performance.now();
      a?.click();
      const row = await seen(() => !!document.querySelector('[role=grid] .body a'));
      const whole = await seen(() => Number(document.querySelector('[role=grid]')?.getAttribute('aria-rowcount')) > (rows ?? 0));
      return [row - start, whole - start];
    },
    [pods],
  );
  await expect(link).toHaveAttribute('aria-current', 'page');
  figure('first row', `${first?.toFixed(0)} ms`);
  figure('all rows', `${all?.toFixed(0)} ms`);
  // What is not in sight is not drawn, and the last row can be reached.
  expect(await grid.getByRole('row').count()).toBeLessThan(120);
  const frames = await page.evaluate(async () => {
    const body = document.querySelector('[role=grid] .body');
    if (!body) return [];
    const times: number[] = [];
    for (let i = 0, last = performance.now(); i < 200; i++) {
      body.scrollTop += 137;
      await new Promise(requestAnimationFrame);
      const now = performance.now();
      times.push(now - last);
      last = now;
    }
    return times.sort((a, b) => a - b);
  });
  expect(frames.length).toBe(200);
  figure('a frame while scrolling, median and 95 %', `${frames[100]?.toFixed(0)} ms, ${frames[190]?.toFixed(0)} ms`);
  const filter = page.getByRole('textbox', { name: 'Filter' });
  const last = `many-${String(pods - 1).padStart(5, '0')}`;
  await filter.fill(`app=many ${last}`);
  await expect(grid.getByRole('link')).toHaveCount(1);
  await expect(grid.getByRole('link', { name: last })).toBeVisible();
  await filter.fill('');
  await page.keyboard.press('Escape');
  await page.keyboard.press('G');
  await expect(grid.getByRole('link', { name: last })).toBeVisible();
  expect(await grid.getByRole('row').count()).toBeLessThan(120);
  const used = await heap(page);
  figure('heap of the page', `${used.toFixed(0)} MB`);
  figure('private memory of its process', `${(await privateMemory(processes)).toFixed(0)} MB`);
  expect(used).toBeLessThan(60);
});
