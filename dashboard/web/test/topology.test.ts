import { describe, expect, test } from 'vitest';
import { appliesTo, claimsOf, hostsOf, isNamed, policyText, selects, volumesByHost } from '../src/lib/topology';
import { scaleEnd, newest } from '../src/lib/usagehistory.svelte';
import { portsOf } from '../src/lib/ports';
import type { NetworkPolicy, PersistentVolume, PersistentVolumeClaim, Pod, Service } from '../src/gen/kubernetes';

test('selectors select as the API does', () => {
  expect(selects({}, undefined)).toBe(true);
  expect(selects(undefined, { a: 'b' })).toBe(true);
  expect(selects({ matchLabels: { a: 'b' } }, { a: 'b', c: 'd' })).toBe(true);
  expect(selects({ matchLabels: { a: 'b' } }, { a: 'c' })).toBe(false);
  const one = (operator: string, values?: string[]): boolean => selects({ matchExpressions: [{ key: 'a', operator, ...(values ? { values } : {}) }] }, { a: 'b' });
  expect([one('In', ['b']), one('In', ['c']), one('NotIn', ['b']), one('NotIn', ['c']), one('Exists'), one('DoesNotExist'), one('Other')]).toEqual([true, false, false, true, true, false, false]);
  expect(selects({ matchExpressions: [{ key: 'x', operator: 'NotIn', values: ['b'] }] }, { a: 'b' })).toBe(true);
});

describe('a network policy', () => {
  const policy = (spec: NetworkPolicy['spec']): NetworkPolicy => ({ metadata: { name: 'p', namespace: 'shop' }, spec });
  const web = { ns: 'shop', name: 'web', labels: { app: 'web' } };
  const other = { ns: 'blog', name: 'web', labels: { app: 'web' } };
  const namespaces = new Map([['shop', { team: 'a' }], ['blog', { team: 'b' }]]);
  test('applies to pods of its namespace', () => {
    const p = policy({ podSelector: { matchLabels: { app: 'web' } } });
    expect(appliesTo(p, web)).toBe(true);
    expect(appliesTo(p, other)).toBe(false);
    expect(isNamed(p, other, namespaces)).toBe(false);
    expect(policyText(p)).toBe('lets in nothing');
  });
  test('names peers by pods, by namespaces, by both, and all', () => {
    const from = (...peers: object[]): NetworkPolicy => policy({ podSelector: {}, ingress: [peers.length ? { from: peers } : {}] });
    expect(isNamed(from({ podSelector: { matchLabels: { app: 'web' } } }), web, namespaces)).toBe(true);
    expect(isNamed(from({ podSelector: { matchLabels: { app: 'web' } } }), other, namespaces)).toBe(false);
    expect(isNamed(from({ namespaceSelector: { matchLabels: { team: 'b' } } }), other, namespaces)).toBe(true);
    expect(isNamed(from({ namespaceSelector: { matchLabels: { team: 'b' } } }), other, new Map())).toBe(false);
    expect(isNamed(from({ namespaceSelector: {}, podSelector: { matchLabels: { app: 'db' } } }), other, namespaces)).toBe(false);
    expect(isNamed(from({ ipBlock: { cidr: '0.0.0.0/0' } }), other, namespaces)).toBe(false);
    expect(isNamed(from(), other, namespaces)).toBe(true);
    expect(isNamed(policy({ podSelector: {}, egress: [{ to: [{ namespaceSelector: {} }] }] }), other, namespaces)).toBe(true);
    expect(policyText(policy({ podSelector: {}, policyTypes: ['Ingress', 'Egress'], ingress: [{}, {}] }))).toBe('lets in what 2 rules name, lets out nothing');
  });
});

test('volumes are where they can be reached from', () => {
  const volume = (name: string, hosts: string[]): PersistentVolume => ({ metadata: { name }, spec: hosts.length ? { nodeAffinity: { required: { nodeSelectorTerms: [{ matchExpressions: [{ key: 'kubernetes.io/hostname', operator: 'In', values: hosts }] }] } } } : {} });
  const claim = (name: string, volumeName: string, annotations = {}): PersistentVolumeClaim => ({ metadata: { name, namespace: 'shop', uid: name, annotations }, spec: { volumeName }, status: { phase: 'Bound', capacity: { storage: '1Gi' } } });
  expect(hostsOf(undefined)).toBeUndefined();
  const by = volumesByHost([claim('b', 'v1'), claim('a', 'v1'), claim('c', 'v2'), claim('d', 'v3'), claim('e', '', { 'volume.kubernetes.io/selected-node': 'w2' })], [volume('v1', ['w1']), volume('v2', []), volume('v3', ['w1', 'w2'])]);
  expect([...by].map(([host, list]) => [host, list.map((v) => v.name)])).toEqual([['w1', ['a', 'b']], ['', ['c', 'd']], ['w2', ['e']]]);
  const pod: Pod = { metadata: { name: 'p' }, spec: { containers: [], volumes: [{ name: 'x', persistentVolumeClaim: { claimName: 'a' } }, { name: 'y', ephemeral: {} }, { name: 'z', emptyDir: {} }] } };
  expect(claimsOf(pod)).toEqual(['a', 'p-y']);
});

test('the scale of a chart shows what was used, and marks that are near', () => {
  expect(scaleEnd([[1, null, 2]], [4], 0.1)).toBeCloseTo(4.2);
  expect(scaleEnd([[1, 2]], [100], 0.1)).toBeCloseTo(2.3);
  expect(scaleEnd([[]], [], 0.1)).toBe(0.1);
  expect(newest([1, 2, null])).toBe(2);
  expect(newest([null])).toBeUndefined();
});

test('ports that can be opened are those of TCP, each once', () => {
  const pod: Pod = { spec: { containers: [{ name: 'a', ports: [{ name: 'http', containerPort: 80 }, { containerPort: 53, protocol: 'UDP' }] }, { name: 'b', ports: [{ containerPort: 80 }] }], initContainers: [{ name: 'i', ports: [{ containerPort: 1 }] }, { name: 's', restartPolicy: 'Always', ports: [{ containerPort: 9090 }] }] } };
  expect(portsOf('pods', pod)).toEqual([{ name: 'http', port: 80 }, { name: '', port: 9090 }]);
  const service: Service = { spec: { ports: [{ port: 443, name: 'https' }] } };
  expect(portsOf('services', service)).toEqual([{ name: 'https', port: 443 }]);
  expect(portsOf('services', undefined)).toEqual([]);
});
