import { applyText, expect, kubectl, namespace, signIn, test } from './help.js';

test('a custom kind is listed, created, edited and deleted as any other', async ({ page }) => {
  const ns = namespace('browser-kinds');
  const properties = { size: { type: 'string', enum: ['small', 'large'] }, note: { type: 'string' } };
  applyText(
    JSON.stringify({
      apiVersion: 'apiextensions.k8s.io/v1', kind: 'CustomResourceDefinition', metadata: { name: 'crates.browser.example' },
      spec: {
        group: 'browser.example', scope: 'Namespaced', names: { plural: 'crates', singular: 'crate', kind: 'Crate' },
        versions: [{ name: 'v1', served: true, storage: true, schema: { openAPIV3Schema: { type: 'object', properties: { spec: { type: 'object', properties } } } }, additionalPrinterColumns: [{ name: 'Size', type: 'string', jsonPath: '.spec.size' }] }],
      },
    }),
  );
  kubectl('wait', '--for=condition=Established', 'crd/crates.browser.example', '--timeout=30s');
  const of = (path: string): string => kubectl('get', 'crates.browser.example/first', '-n', ns, '-o', `jsonpath={${path}}`);
  await signIn(page);
  await page.getByLabel('Namespace').selectOption(ns);
  await page.goto('/ui/kinds');
  await page.getByRole('link', { name: 'Crate', exact: true }).first().click();
  await page.getByRole('link', { name: 'Create', exact: true }).click();
  const manifests = page.getByRole('textbox', { name: 'Manifests' });
  await expect(manifests).toHaveValue(/kind: Crate/);
  await manifests.fill(`{apiVersion: browser.example/v1, kind: Crate, metadata: {name: first}, spec: {size: huge}}`);
  await page.getByRole('button', { name: 'See what would change' }).click();
  await expect(page.getByRole('alert')).toContainText('spec.size'); // its schema refuses it
  await manifests.fill(`{apiVersion: browser.example/v1, kind: Crate, metadata: {name: first}, spec: {size: small}}`);
  await page.getByRole('button', { name: 'See what would change' }).click();
  await page.getByRole('button', { name: 'Apply', exact: true }).click();
  await expect(page.getByText('Everything has rolled out.')).toBeVisible();
  expect(of('.spec.size')).toBe('small');

  await page.goto('/ui/list/crates.browser.example');
  const grid = page.getByRole('grid');
  await expect(grid.getByRole('columnheader', { name: 'Size' })).toBeVisible();
  await expect(grid.getByText('small')).toBeVisible();
  await grid.getByRole('link', { name: 'first' }).click();
  await page.getByRole('navigation', { name: 'Parts' }).getByRole('link', { name: 'YAML' }).click();
  await page.getByRole('button', { name: 'Edit' }).click();
  const text = page.getByRole('textbox', { name: 'Manifest' });
  await text.fill((await text.inputValue()).replace('size: small', 'size: large'));
  await page.getByRole('button', { name: 'See what would change' }).click();
  const difference = page.getByRole('region', { name: 'What would change' });
  await expect(difference).toContainText('-  size: small');
  await expect(difference).toContainText('+  size: large');
  await page.getByRole('button', { name: 'Save' }).click();
  await expect(page.getByText('Saved.')).toBeVisible();
  expect(of('.spec.size')).toBe('large');

  await page.getByRole('group', { name: 'Actions' }).getByRole('button', { name: 'Delete' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Delete', exact: true }).click();
  await expect(page.getByText('It has been deleted.')).toBeVisible();
  await expect.poll(() => kubectl('get', 'crates.browser.example', '-n', ns, '-o', 'name')).toBe('');
});
