import { expect, run, signIn, test } from './help.js';

const dir = process.env['CLUSTER_DIR'] ?? '';
interface Status {
  leader: string;
}
const leader = (): string => (JSON.parse(run(['kubectl', 'get', '--raw', '/kontiki/v1/cluster'])) as Status).leader;

test('the leader is killed: the page says so, goes on by another master, and shows the new leader', async ({ page }) => {
  test.setTimeout(120_000);
  await signIn(page);
  const masters = page.getByRole('region', { name: 'Masters' });
  const old = leader();
  await expect(masters.getByRole('row', { name: old }).getByText('leader', { exact: true })).toBeVisible();
  run(['dev', 'kill', old, '--data-dir', dir]);
  try {
    await expect(masters.getByRole('row', { name: old }).getByText('unreachable')).toBeVisible({ timeout: 40_000 });
    await expect(page.getByText(`before, ${old} did`)).toBeVisible();
    await expect(page.getByRole('heading', { level: 1 })).toContainText('The masters are degraded');
    const attention = page.getByRole('region', { name: 'Needs attention' });
    await expect(attention).toContainText(`${old} at`);
    await expect(attention).toContainText('catches up by itself');
    const now = leader();
    expect(now).not.toBe(old);
    await expect(masters.getByRole('row', { name: now }).getByText('leader', { exact: true })).toBeVisible();
  } finally {
    run(['dev', 'start', old, '--data-dir', dir]);
  }
  await expect(masters.getByRole('row', { name: old }).getByText('ok', { exact: true })).toBeVisible({ timeout: 40_000 });
});

test('without any master the page says so, and comes back by itself', async ({ page }) => {
  await signIn(page);
  await expect(page.getByText('Masters healthy')).toBeVisible();
  await page.context().setOffline(true);
  await expect(page.getByText('No master answers')).toBeVisible();
  await expect(page.getByRole('region', { name: 'Masters' })).toBeVisible(); // what was known stays
  await page.context().setOffline(false);
  await expect(page.getByText('No master answers')).toHaveCount(0);
});
