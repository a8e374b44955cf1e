import { generateKeyPairSync, createVerify, verify, type KeyObject } from 'node:crypto';
import { dump } from 'js-yaml';
import { describe, expect, test } from 'vitest';
import { allows, allowsPath } from '../src/lib/access.svelte';
import { diffLines, hunks } from '../src/lib/diff';
import { bytes, cores, duration, goDuration, quantity, tone } from '../src/lib/format';
import { contexts } from '../src/lib/kubeconfig';
import { LogBuffer, plain, splitLine } from '../src/lib/logs';
import { fieldPaths } from '../src/lib/managed';
import type { Obj } from '../src/lib/objects.svelte';
import { pkcs8, sign } from '../src/lib/pem';
import { parseManifests, progressOf, same, shown } from '../src/lib/release';
import { stem } from '../src/lib/findings';
import { tokens, without } from '../src/lib/yaml';
import type { Kind } from '../src/lib/kinds.svelte';

describe('private keys', () => {
  const text = 'kontiki dashboard sign-in';
  const pem = (k: KeyObject, type: 'pkcs8' | 'pkcs1' | 'sec1'): string => k.export({ format: 'pem', type } as never) as string;
  test.each(['prime256v1', 'secp384r1', 'secp521r1'])('on the curve %s sign, in both forms', async (namedCurve) => {
    const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve });
    for (const type of ['pkcs8', 'sec1'] as const) {
      const signature = await sign(pem(privateKey, type), text);
      expect(verify('sha256', Buffer.from(text), { key: publicKey, dsaEncoding: 'ieee-p1363' }, signature)).toBe(true);
    }
  });
  test('of RSA sign, in both forms', async () => {
    const { privateKey, publicKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
    for (const type of ['pkcs8', 'pkcs1'] as const) expect(createVerify('sha256').update(text).verify(publicKey, await sign(pem(privateKey, type), text))).toBe(true);
  });
  test('of Ed25519 sign', async () => {
    const { privateKey, publicKey } = generateKeyPairSync('ed25519');
    expect(verify(null, Buffer.from(text), publicKey, await sign(pem(privateKey, 'pkcs8'), text))).toBe(true);
  });
  test('that are none, or have a passphrase, are refused with a reason', () => {
    expect(() => pkcs8('hello')).toThrow(/no private key/);
    const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
    expect(() => pkcs8(privateKey.export({ format: 'pem', type: 'pkcs8', cipher: 'aes-256-cbc', passphrase: 'x' }) as string)).toThrow(/passphrase/);
  });
});

describe('kubeconfigs', () => {
  const file = (users: unknown[]): string => dump({ 'current-context': 'b', contexts: users.map((_, i) => ({ name: 'ab'[i], context: { user: `u${i}` } })), users: users.map((user, i) => ({ name: `u${i}`, user })) });
  test('the current context comes first, with its credential', () => {
    const found = contexts(file([{ token: 'x' }, { 'client-certificate-data': btoa('CERT'), 'client-key-data': btoa('KEY') }]));
    expect(found.map((c) => c.name)).toEqual(['b', 'a']);
    expect(found[0]?.credential).toEqual({ certificate: 'CERT', key: 'KEY' });
    expect(found[1]?.credential).toEqual({ token: 'x' });
  });
  test.each([
    [{ exec: { command: 'aws' } }, /a program/], [{ 'client-certificate': '/x', 'client-key': '/y' }, /another file/], [{}, /neither/], [{ 'client-certificate-data': '%', 'client-key-data': '%' }, /base64/], [{ tokenFile: '/x' }, /paste the token/],
  ])('%j cannot be used, and it is said why', (user, why) => expect(contexts(file([user]))[0]?.problem).toMatch(why));
  test.each(['', 'a: [', '[]', 'hello', '{contexts: []}', '{contexts: 5}'])('%j is refused', (text) => expect(() => contexts(text)).toThrow());
});

describe('rights', () => {
  const rules = {
    resourceRules: [
      { verbs: ['get', 'list'], apiGroups: [''], resources: ['pods', 'pods/log'] },
      { verbs: ['delete'], apiGroups: ['apps'], resources: ['deployments'], resourceNames: ['web'] },
      { verbs: ['patch'], apiGroups: ['*'], resources: ['*/scale'] },
    ],
    nonResourceRules: [{ verbs: ['get'], nonResourceURLs: ['/kontiki/v1/cluster', '/healthz/*'] }],
  };
  test.each([
    ['list', '', 'pods', undefined, true], ['delete', '', 'pods', undefined, false], ['get', '', 'pods/log', 'a', true], ['create', '', 'pods/exec', 'a', false], ['delete', 'apps', 'deployments', 'web', true], ['delete', 'apps', 'deployments', 'api', false], ['delete', 'apps', 'deployments', undefined, false], ['patch', 'apps', 'deployments/scale', 'x', true], ['patch', 'apps', 'deployments', 'x', false],
  ] as const)('%s %s %s %s: %s', (verb, group, resource, name, may) => expect(allows(rules, { verb, group, resource, name })).toBe(may));
  test('of paths', () => {
    expect(allowsPath(rules, 'get', '/kontiki/v1/cluster')).toBe(true);
    expect(allowsPath(rules, 'get', '/kontiki/v1/cluster/members')).toBe(false);
    expect(allowsPath(rules, 'get', '/healthz/ping')).toBe(true);
    expect(allowsPath(rules, 'delete', '/healthz/ping')).toBe(false);
  });
  test('that are not complete are offered: the masters decide', () => expect(allows({ ...rules, incomplete: true }, { verb: 'delete', group: '', resource: 'nodes' })).toBe(true));
});

describe('differences', () => {
  const apply = (a: string, b: string): string => diffLines([...a], [...b]).map((l) => ({ same: ' ', added: '+', removed: '-' })[l.kind] + l.text).join('');
  test.each([['abc', 'abc', ' a b c'], ['abc', 'axc', ' a-b+x c'], ['', 'ab', '+a+b'], ['ab', '', '-a-b'], ['abcabba', 'cbabac', undefined]])('%j to %j', (a, b, want) => {
    const got = apply(a, b);
    if (want !== undefined) expect(got).toBe(want);
    expect([...got.matchAll(/[ -](.)/g)].map((m) => m[1]).join('')).toBe(a);
    expect([...got.matchAll(/[ +](.)/g)].map((m) => m[1]).join('')).toBe(b);
  });
  test('of random texts lead from one to the other', () => {
    let seed = 7;
    const random = (n: number): number => (seed = (seed * 1103515245 + 12345) & 0x7fffffff) % n;
    for (let i = 0; i < 300; i++) {
      const [a, b] = [0, 1].map(() => Array.from({ length: random(30) }, () => 'abc'[random(3)]).join(''));
      const got = diffLines([...(a ?? '')], [...(b ?? '')]);
      expect(got.filter((l) => l.kind !== 'added').map((l) => l.text).join('')).toBe(a);
      expect(got.filter((l) => l.kind !== 'removed').map((l) => l.text).join('')).toBe(b);
    }
  });
  test('show lines around them', () => expect(hunks(diffLines([...'abcdefghij'], [...'abcdeXghij']), 1).map((l) => l?.text ?? '…').join('')).toBe('…efXg…'));
});

describe('logs', () => {
  test('are merged by time, and the oldest dropped', () => {
    const b = new LogBuffer(4);
    b.add(0, '2026-01-01T00:00:02.000000000Z two');
    b.add(1, '2026-01-01T00:00:01.000000000Z one');
    expect(b.flush()).toBe(2);
    b.add(0, '2026-01-01T00:00:03.000000000Z four');
    b.add(1, '2026-01-01T00:00:02.500000000Z three');
    b.add(1, '2026-01-01T00:00:04.000000000Z five');
    b.flush();
    expect(b.lines.map((l) => l.text)).toEqual(['two', 'three', 'four', 'five']);
    expect(b.dropped).toBe(1);
    expect(b.flush()).toBe(0);
  });
  test('stay bounded while nobody looks', () => {
    const b = new LogBuffer(100);
    for (let i = 0; i < 10_000; i++) b.add(0, `2026-01-01T00:00:00.${String(i).padStart(9, '0')}Z ${i}`);
    b.flush();
    expect(b.lines.length).toBe(100);
    expect(b.lines.at(-1)?.text).toBe('9999');
    expect(b.dropped).toBe(9900);
  });
  test('of a second of 20 pods with 1,000 lines each keep their order', () => {
    const b = new LogBuffer(50_000);
    for (let s = 0; s < 20; s++) for (let i = 0; i < 1000; i++) b.add(s, `2026-01-01T00:00:00.${String(i * 1000 + s).padStart(9, '0')}Z ${i}`);
    b.flush();
    const { lines } = b;
    expect(lines.length).toBe(20_000);
    expect(lines.every((l, i) => i === 0 || (lines[i - 1]?.time ?? '') <= l.time)).toBe(true);
  });
  test('have neither colours nor cursor movements', () => expect(plain('\u001b[31mred\u001b[0m\u001b]0;title\u0007\u0000')).toBe('red0;title'));
  test('without a time are shown too', () => expect(splitLine('unable to retrieve')).toEqual({ time: '', text: 'unable to retrieve' }));
});

describe('YAML', () => {
  const text = 'apiVersion: v1\nmetadata:\n  annotations:\n    status: kept\n  managedFields:\n  - manager: a\n    fieldsV1:\n      f:x: {}\n  name: web\n  uid: "1"\nspec:\n  status: kept\nstatus:\n  phase: x\n  conditions:\n  - type: a\n';
  test('loses what the masters fill in, and nothing else', () => {
    expect(without(text, 'metadata.managedFields', 'metadata.uid', 'status')).toBe('apiVersion: v1\nmetadata:\n  annotations:\n    status: kept\n  name: web\nspec:\n  status: kept\n');
  });
  test('is split for colouring without losing a character', () => {
    for (const line of [...text.split('\n'), '- a: b', '  - - x', "'q': \"v\" # c", '# only', '---', '  key: |', '    any: {text', 'url: http://x:80']) expect(tokens(line).map((t) => t.text).join('')).toBe(line);
  });
});

describe('releases', () => {
  const configMap: Kind = { group: '', version: 'v1', plural: 'configmaps', kind: 'ConfigMap', namespaced: true, verbs: [], shortNames: [], subresources: [], section: 'Configuration' };
  const find = (v: string, k: string): Kind | undefined => (v === 'v1' && k === 'ConfigMap' ? configMap : undefined);
  test('are read from several documents and lists', () => {
    const read = parseManifests('{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}\n---\n---\n{apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: ConfigMap, metadata: {name: b, namespace: n}}]}', find, 'here');
    expect(read.map((t) => [t.ns, t.name, t.object.metadata.namespace])).toEqual([['here', 'a', 'here'], ['n', 'b', 'n']]);
  });
  test.each([
    ['', /no manifest/], ['a: [', /not YAML/], ['5', /not an object/], ['{kind: ConfigMap, metadata: {name: a}}', /apiVersion and kind/], ['{apiVersion: v1, kind: ConfigMap}', /metadata.name/], ['{apiVersion: v1, kind: X, metadata: {name: a}}', /no kind X/], ['{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}\n---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}', /Document 2.*twice/],
  ])('%j is refused', (text, why) => expect(() => parseManifests(text, find, '')).toThrow(why));
  test('hide what Secrets have, and show that it changes', () => {
    const secret = (v: string): string => shown({ apiVersion: 'v1', kind: 'Secret', metadata: { name: 'a', uid: '1' }, data: { k: v }, status: {} });
    expect(secret('b3Blbi1zZXNhbWU=')).not.toContain('b3Blbi1zZXNhbWU=');
    expect(secret('YQ==')).not.toBe(secret('Yg=='));
    expect(secret('YQ==')).not.toMatch(/uid|status/);
  });
  test('hide what kubectl notes of Secrets, and leave it to the object, which an undo puts back', () => {
    const note = 'kubectl.kubernetes.io/last-applied-configuration';
    const object = { apiVersion: 'v1', kind: 'Secret', metadata: { name: 'a', annotations: { [note]: '{"stringData":{"k":"open-sesame"}}', kept: 'yes' } }, data: { k: 'b3Blbi1zZXNhbWU=' } };
    expect(shown(object)).not.toMatch(/sesame|last-applied/);
    expect(shown(object)).toContain('kept: ');
    expect(object.metadata.annotations[note]).toContain('open-sesame');
    expect(object.data.k).toBe('b3Blbi1zZXNhbWU=');
  });
  test('compare what they write, and not the marks that stand for it', () => {
    const of = (value: string, more = {}): Obj => ({ apiVersion: 'v1', kind: 'Secret', metadata: { name: 'a', ...more }, data: { k: value } });
    expect(same(of('YQ=='), of('YQ==', { resourceVersion: '2', uid: '1' }))).toBe(true);
    expect(same(of('YQ=='), of('Yg=='))).toBe(false);
    expect(same(of('YQ=='), of('YQ==', { annotations: { a: 'b' } }))).toBe(false);
    expect(same(undefined, of('YQ=='))).toBe(false);
  });
  test.each([
    ['deployments.apps', { generation: 2 }, { replicas: 2 }, { observedGeneration: 1 }, 'waiting'], ['deployments.apps', { generation: 2 }, { replicas: 2 }, { observedGeneration: 2, replicas: 3, updatedReplicas: 2, availableReplicas: 2 }, 'waiting'],
    ['deployments.apps', { generation: 2 }, { replicas: 2 }, { observedGeneration: 2, replicas: 2, updatedReplicas: 2, availableReplicas: 2 }, 'done'], ['deployments.apps', { generation: 2 }, { replicas: 2 }, { observedGeneration: 2, conditions: [{ type: 'Progressing', status: 'False', reason: 'ProgressDeadlineExceeded' }] }, 'failed'],
    ['jobs.batch', {}, { completions: 1 }, { conditions: [{ type: 'Failed', status: 'True', message: 'x' }] }, 'failed'], ['jobs.batch', {}, {}, {}, 'waiting'], ['pods', {}, {}, { phase: 'Succeeded' }, 'done'], ['configmaps', {}, {}, {}, 'done'],
  ])('%s %j %j %j: %s', (kind, metadata, spec, status, state) => expect(progressOf(kind, { metadata, spec, status }).state).toBe(state));
});

test('fields that somebody set are named as paths', () => {
  expect(fieldPaths({ 'f:metadata': { 'f:labels': { '.': {}, 'f:app': {} } }, 'f:spec': { 'f:containers': { 'k:{"name":"web"}': { '.': {}, 'f:image': {} } }, 'f:finalizers': { 'v:"x"': {} } } })).toEqual(['metadata.labels.app', 'spec.containers[web].image', 'spec.finalizers[x]']);
});

test('values are shown as kubectl shows them', () => {
  expect([0, 119_000, 120_000, 125_000, 600_000, 3 * 3600_000, 8 * 3600_000, 49 * 3600_000, 9 * 86_400_000, 3 * 365 * 86_400_000].map(duration)).toEqual(['0s', '119s', '2m', '2m5s', '10m', '3h', '8h', '2d1h', '9d', '3y']);
  expect(['100m', '1.5Gi', '2e3', '12345Ki', '5', 'x', ''].map(quantity)).toEqual([0.1, 1.5 * 2 ** 30, 2000, 12345 * 1024, 5, 0, 0]);
  expect([0, 1000, 1024, 5 * 2 ** 20, 43255160832].map(bytes)).toEqual(['0 B', '0.98 KiB', '1 KiB', '5 MiB', '40.3 GiB']);
  expect([0, 0.0004, 0.25, 1.5, 12, 120].map(cores)).toEqual(['0', '1 m', '250 m', '1.5', '12', '120']);
  expect(['0s', '9ms', '1m2.5s', '120µs', 'never', ''].map(goDuration)).toEqual([0, 9, 62_500, 0.12, undefined, undefined]);
  expect(['Running', 'CrashLoopBackOff', 'Pending', 'Completed', 'Init:Error', 'Ready,SchedulingDisabled', 'NotReady'].map(tone)).toEqual(['ok', 'bad', 'warn', 'ok', 'bad', 'warn', 'bad']);
  expect(['web-7d6747679d-4dpzp', 'db-0', 'report-29934580-vsvpm', 'agent-x7k2p', 'plain'].map(stem)).toEqual(['web', 'db', 'report', 'agent', 'plain']);
});
