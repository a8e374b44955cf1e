// What the tests share: the cluster that the Go test beside them has started, as its environment says, and a page that is signed in.
import { AxeBuilder } from '@axe-core/playwright';
import { test as base, expect, type Page } from '@playwright/test';
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';

function needed(name: string): string {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set: run \`make browser\``);
  return value;
}

export const kubeconfig = needed('KUBECONFIG');
const kontiki = needed('KONTIKI');

/** Runs kontiki with arguments, and returns what it prints. */
export function run(args: string[], input = ''): string {
  return execFileSync(kontiki, args, { input, encoding: 'utf8', maxBuffer: 64 << 20, timeout: 60_000 });
}

export const kubectl = (...args: string[]): string => run(['kubectl', ...args]);
export const applyText = (manifest: string): string => run(['kubectl', 'apply', '-f', '-'], manifest);

/** What a page must not do: errors of its scripts, and what its Content-Security-Policy refused. */
export const test = base.extend<{ complaints: string[] }>({
  complaints: [
    async ({ page }, use) => {
      const complaints: string[] = [];
      page.on('pageerror', (e) => complaints.push(`error: ${e.message}`));
      page.on('console', (m) => {
        if (/Content Security Policy|Refused to/i.test(m.text())) complaints.push(m.text());
      });
      await use(complaints);
      expect(complaints, 'errors of the page').toEqual([]);
    },
    { auto: true },
  ],
});
export { expect };

export async function signIn(page: Page, file = kubeconfig): Promise<void> {
  await page.goto('/ui/');
  await page.setInputFiles('input[type=file]', file);
  await expect(page.getByRole('banner').getByText('kubernetes-admin')).toBeVisible();
}

/** An event of the masters' audit logs. */
export interface AuditEvent {
  verb: string;
  stage: string;
  user: { username: string };
  objectRef?: { resource?: string; namespace?: string; name?: string };
  responseStatus?: { code: number };
}

/** The events of all masters, which write them among the lines of their logs. */
export function auditEvents(): AuditEvent[] {
  const logs = `${needed('CLUSTER_DIR')}/logs`;
  return readdirSync(logs)
    .filter((name) => name.startsWith('master-'))
    .flatMap((name) => readFileSync(`${logs}/${name}`, 'utf8').split('\n'))
    .filter((line) => line.startsWith('{') && line.includes('"audit.k8s.io/v1"'))
    .map((line) => JSON.parse(line) as AuditEvent);
}

/** Signs in with the token of a new service account that may do what the rules say in its namespace. */
export async function signInAs(page: Page, namespace: string, name: string): Promise<void> {
  await page.goto('/ui/');
  await page.getByRole('button', { name: 'Token' }).click();
  await page.getByLabel('Bearer token').fill(kubectl('create', 'token', name, '-n', namespace).trim());
  await page.getByRole('button', { name: 'Sign in' }).click();
  await expect(page.getByRole('banner')).toBeVisible();
}

/** Creates a namespace for a test. */
export function namespace(name: string): string {
  applyText(`{apiVersion: v1, kind: Namespace, metadata: {name: ${name}}}`);
  return name;
}

/** A Deployment whose containers print a line a second. */
export function workload(ns: string, name: string, replicas = 2, script = 'i=0; while true; do i=$((i+1)); echo "line $i of $HOSTNAME"; sleep 1; done'): void {
  applyText(
    JSON.stringify({
      apiVersion: 'apps/v1', kind: 'Deployment', metadata: { name, namespace: ns, labels: { app: name } },
      spec: {
        replicas, selector: { matchLabels: { app: name } },
        template: {
          metadata: { labels: { app: name } },
          spec: { terminationGracePeriodSeconds: 0, containers: [{ name: 'app', image: 'busybox:latest', imagePullPolicy: 'IfNotPresent', command: ['sh', '-c', script], resources: { requests: { cpu: '10m', memory: '8Mi' }, limits: { memory: '64Mi' } } }] },
        },
      },
    }),
  );
}

/** Looks for barriers (WCAG 2.2 AA) with axe, except in what a selector selects. */
export async function accessible(page: Page, what: string, except = ''): Promise<void> {
  const builder = new AxeBuilder({ page });
  if (except) builder.exclude(except);
  const found = await builder.withTags(['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']).analyze();
  expect.soft(
    found.violations.map((v) => `${v.id}: ${v.nodes.map((n) => `${n.target.join(' ')} ${n.failureSummary ?? ''}`).slice(0, 3).join('; ')}`),
    `barriers in ${what}`,
  ).toEqual([]);
}
