import { accessible, applyText, expect, test } from './help.js';

test('a user signs in by a redirect to the issuer, and comes back to the page that was asked for', async ({ page, context }) => {
  applyText(`
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: browser-issuer}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: 'oidc:jane'}]
`);
  await page.goto('/ui/list/configmaps?q=kube-root');
  const link = page.getByRole('link', { name: /^Sign in at 127\.0\.0\.1/ });
  await expect(link).toBeVisible();
  await accessible(page, 'signing in at an issuer');
  await link.click();
  // At the provider.
  await expect(page.getByRole('heading', { name: 'Provider of the tests' })).toBeVisible();
  expect(page.url()).toMatch(/code_challenge=[\w-]{43}&code_challenge_method=S256/);
  await page.getByRole('link', { name: 'Be jane' }).click();
  await expect(page.getByRole('banner').getByText('oidc:jane')).toBeVisible();
  expect(page.url()).toMatch(/\/ui\/list\/configmaps\?q=kube-root$/);
  await expect(page.getByRole('grid').getByRole('link', { name: 'kube-root-ca.crt' }).first()).toBeVisible();
  const cookies = await context.cookies();
  expect(cookies.filter((c) => c.name.startsWith('__Secure-kontiki')).map((c) => [c.name, c.sameSite])).toEqual([['__Secure-kontiki', 'Strict']]);
  expect(await page.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie, location.href]))).not.toContain('eyJ');
  // Whom the provider refuses is told so.
  await page.getByRole('button', { name: 'oidc:jane' }).click();
  await page.getByRole('button', { name: 'Sign out' }).click();
  await page.getByRole('link', { name: /^Sign in at/ }).click();
  await page.getByRole('link', { name: 'Be nobody' }).click();
  await expect(page.getByRole('alert')).toContainText('did not sign you in');
  // A return that this browser did not begin is refused.
  await page.goto('/ui/session/oidc/callback?code=x&state=y');
  await expect(page.getByRole('alert')).toContainText('not begun in this browser');
});
