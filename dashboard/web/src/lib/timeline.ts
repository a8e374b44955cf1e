// The journal of changes and events that each master keeps.
import { get } from './api.svelte';

export interface Entry {
  revision: number;
  time: string;
  what: 'created' | 'changed' | 'deleted' | 'event' | 'missing';
  group?: string;
  resource?: string;
  kind?: string;
  namespace?: string;
  name?: string;
  uid?: string;
  manager?: string;
  subresource?: string;
  user?: string;
  fields?: string[];
  more?: boolean;
  type?: string;
  reason?: string;
  text?: string;
  about?: { apiVersion?: string; kind?: string; namespace?: string; name?: string; uid?: string };
  since?: string;
  count?: number;
}

interface Page {
  items: Entry[];
  before?: number;
}

export function readTimeline(select: { namespace?: string; uid?: string; before?: number; limit?: number }, signal?: AbortSignal): Promise<Page> {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(select)) if (value) query.set(name, String(value));
  const search = query.toString();
  return get<Page>('/kontiki/v1/journal' + (search ? '?' + search : ''), signal);
}

/** Entries with newer ones before them, without what both have. */
export function joined(newer: Entry[], older: Entry[]): Entry[] {
  const first = older[0];
  if (!first) return newer;
  const last = newer[newer.length - 1];
  // Between them there may be more than was read: then what is older begins anew.
  if (last && last.revision > first.revision && newer.length >= pageLength) return newer;
  return [...newer.filter((e) => e.revision > first.revision), ...older];
}

/** How many entries one request reads. */
export const pageLength = 300;

/** What an entry is to a reader: a change of the status alone is what the cluster does, others are what somebody wanted. */
export function sortOf(e: Entry): 'changes' | 'status' | 'events' {
  if (e.what === 'event') return 'events';
  return e.what === 'changed' && e.fields?.length && e.fields.every((f) => f.startsWith('status.')) ? 'status' : 'changes';
}

/** Paths with one for each condition, instead of one for each of its fields. */
export function folded(fields: string[]): string[] {
  return [...new Set(fields.map((f) => /^status\.conditions\[[^\]]*\]/.exec(f)?.[0] ?? f))];
}

/** Whether an entry has all words in what is shown of it. */
export function matches(e: Entry, words: string[]): boolean {
  if (!words.length) return true;
  const text = [e.what, e.kind, e.namespace, e.name, e.manager, e.user, e.subresource, e.reason, e.text, e.about?.kind, e.about?.name, ...(e.fields ?? [])].filter(Boolean).join(' ').toLowerCase();
  return words.every((w) => text.includes(w));
}
