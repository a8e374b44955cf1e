import { describe, expect, test } from 'vitest';
import { folded, joined, matches, pageLength, sortOf, type Entry } from '../src/lib/timeline';

const entry = (revision: number, more: Partial<Entry> = {}): Entry => ({ revision, time: '2026-01-01T00:00:00Z', what: 'changed', ...more });
const revisions = (entries: Entry[]): number[] => entries.map((e) => e.revision);

describe('entries of the timeline', () => {
  test('are joined without what both pages have', () => {
    expect(revisions(joined([entry(9), entry(7), entry(5)], [entry(7), entry(5), entry(3)]))).toEqual([9, 7, 5, 3]);
    expect(revisions(joined([], [entry(3)]))).toEqual([3]);
    expect(revisions(joined([entry(3)], []))).toEqual([3]);
  });
  test('begin anew if there may be others between the pages', () => {
    const newer = Array.from({ length: pageLength }, (_, i) => entry(2000 - i));
    expect(joined(newer, [entry(100)])).toEqual(newer);
  });
  test('are what somebody wanted, or what the cluster does', () => {
    expect(sortOf(entry(1, { fields: ['status.replicas', 'status.conditions[Ready].status'] }))).toBe('status');
    expect(sortOf(entry(1, { fields: ['spec.replicas', 'status.replicas'] }))).toBe('changes');
    expect(sortOf(entry(1, { what: 'created' }))).toBe('changes');
    expect(sortOf(entry(1))).toBe('changes');
    expect(sortOf(entry(1, { what: 'event' }))).toBe('events');
    expect(folded(['spec.replicas', 'status.conditions[Ready].status', 'status.conditions[Ready].reason'])).toEqual(['spec.replicas', 'status.conditions[Ready]']);
  });
  test('are found by what is shown of them', () => {
    const e = entry(1, { kind: 'Deployment', name: 'web', namespace: 'shop', manager: 'kubectl', fields: ['spec.replicas'] });
    expect(matches(e, [])).toBe(true);
    expect(matches(e, ['web', 'replicas', 'kubectl'])).toBe(true);
    expect(matches(e, ['web', 'image'])).toBe(false);
    expect(matches(entry(2, { what: 'event', reason: 'BackOff', about: { kind: 'Pod', name: 'p' } }), ['backoff', 'pod'])).toBe(true);
  });
});
