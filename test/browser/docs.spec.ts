import { accessible, expect, signIn, test } from './help.js';

test('the documents are pages, also before signing in', async ({ page }) => {
  await page.goto('/ui/');
  await page.getByRole('link', { name: 'How to sign in' }).click();
  await expect(page.getByRole('heading', { level: 1, name: 'The dashboard' })).toBeVisible();
  // A link to a heading of another document, and back to the dashboard.
  await page.getByRole('link', { name: 'security.md' }).first().click();
  await expect(page).toHaveURL(/\/ui\/docs\/security#the-dashboard$/);
  await expect(page.getByRole('heading', { name: 'The dashboard', exact: true })).toBeInViewport();
  await page.getByRole('navigation', { name: 'Documents' }).getByRole('link', { name: 'Getting started' }).click();
  await expect(page.getByRole('heading', { level: 1, name: 'Getting started' })).toBeVisible();
  for (const look of [{ width: 1440, colorScheme: 'light' }, { width: 390, colorScheme: 'dark' }] as const) {
    await page.setViewportSize({ width: look.width, height: 844 });
    await page.emulateMedia({ colorScheme: look.colorScheme });
    await accessible(page, `a document, ${look.width} wide`);
    expect(await page.evaluate(() => document.documentElement.scrollWidth - innerWidth)).toBeLessThanOrEqual(0);
  }
  await page.setViewportSize({ width: 1440, height: 900 });
  await signIn(page);
  await page.getByRole('navigation', { name: 'Pages' }).getByRole('link', { name: 'Documents' }).click();
  await expect(page.getByRole('heading', { level: 1, name: 'Getting started' })).toBeVisible();
});
