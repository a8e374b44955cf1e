// A kind's objects as the masters' table of them: listed page by page, then watched.
import { aborted, ApiError, connection, lines, message, pause, request } from './api.svelte';
import { pathOf, type Kind } from './kinds.svelte';

export interface Column {
  name: string;
  /** 0 for those that kubectl shows without -o wide. */
  priority: number;
  type: string;
}

/** One object. Equal strings and equal sets of labels are shared among the rows. */
export interface Row {
  uid: string;
  ns: string;
  name: string;
  cells: readonly (string | number)[];
  labels: Readonly<Record<string, string>> | undefined;
  /** Milliseconds since 1970. */
  created: number;
  deleting: boolean;
}

interface Table {
  metadata: { resourceVersion: string; continue?: string; remainingItemCount?: number };
  columnDefinitions?: { name: string; type: string; priority: number }[] | null;
  rows?: { cells: unknown[]; object: { metadata: Metadata } }[] | null;
}
interface Metadata {
  name: string;
  namespace?: string;
  uid?: string;
  creationTimestamp?: string;
  deletionTimestamp?: string;
  labels?: Record<string, string>;
}

const asTable = 'application/json;as=Table;g=meta.k8s.io;v=v1';
const pageSize = 500;
/** Cells that repeat, such as states, nodes and images, are kept once, up to this many. */
const maxShared = 5000;

/** Keeps equal values once. */
export class Shared {
  private strings = new Map<string, string>();
  private labelSets = new Map<string, Readonly<Record<string, string>>>();

  string(s: string): string {
    const known = this.strings.get(s);
    if (known !== undefined) return known;
    if (this.strings.size < maxShared) this.strings.set(s, s);
    return s;
  }

  labels(l: Record<string, string> | undefined): Readonly<Record<string, string>> | undefined {
    if (!l) return undefined;
    const key = JSON.stringify(l);
    const known = this.labelSets.get(key);
    if (known) return known;
    if (this.labelSets.size < maxShared) this.labelSets.set(key, l);
    return l;
  }
}

export function rowOf(cells: readonly unknown[], m: Metadata, shared: Shared): Row {
  return {
    uid: m.uid ?? `${m.namespace ?? ''}/${m.name}`, ns: shared.string(m.namespace ?? ''), name: m.name,
    cells: cells.map((c) => (typeof c === 'number' ? c : shared.string(c === null || c === undefined ? '' : String(c)))),
    labels: shared.labels(m.labels), created: m.creationTimestamp ? Date.parse(m.creationTimestamp) : 0, deleting: !!m.deletionTimestamp,
  };
}

export class TableStore {
  /** Grows with each change of the rows that readers should show. */
  version = $state(0);
  state = $state<'loading' | 'filling' | 'ready' | 'failed'>('loading');
  problem = $state('');
  forbidden = $state(false);
  /** How many objects there are, as far as is known while pages are still being read. */
  total = $state(0);
  columns = $state.raw<Column[]>([]);

  private rows = new Map<string, Row>();
  private stop = new AbortController();
  private shared = new Shared();
  private dirty = false;

  constructor(
    readonly kind: Kind,
    readonly namespace: string,
    readonly selectors: { field?: string; label?: string } = {},
  ) {
    void this.run();
  }

  close(): void {
    this.stop.abort();
  }

  /** The rows, in no particular order. Reading it depends on their changes. */
  all(): Row[] {
    void this.version;
    return [...this.rows.values()];
  }

  get size(): number {
    void this.version;
    return this.rows.size;
  }

  private query(more: Record<string, string>): string {
    const q = new URLSearchParams(more);
    if (this.selectors.field) q.set('fieldSelector', this.selectors.field);
    if (this.selectors.label) q.set('labelSelector', this.selectors.label);
    return pathOf(this.kind, this.namespace) + '?' + q.toString();
  }

  private async run(): Promise<void> {
    const { signal } = this.stop;
    for (let wait = 500; !signal.aborted; ) {
      try {
        let version = await this.list(signal);
        wait = 500;
        while (!signal.aborted) version = await this.watch(version, signal);
      } catch (e) {
        if (signal.aborted || aborted(e)) return;
        if (e instanceof ApiError && e.status === 410) continue; // too old: list again
        const denied = e instanceof ApiError && (e.status === 403 || e.status === 404 || e.status === 405);
        this.problem = message(e);
        this.forbidden = e instanceof ApiError && e.status === 403;
        if (denied || !this.rows.size) this.state = 'failed';
        await pause(denied ? 15_000 : wait, signal).catch(() => {});
        wait = Math.min(wait * 2, 5000);
      }
    }
  }

  private async list(signal: AbortSignal): Promise<string> {
    const seen = new Set<string>();
    let next = '';
    for (;;) {
      const q: Record<string, string> = { limit: String(pageSize) };
      if (next) q['continue'] = next;
      const table = (await (await request(this.query(q), { accept: asTable, signal })).json()) as Table;
      if (table.columnDefinitions?.length) this.columns = table.columnDefinitions.map(({ name, priority, type }) => ({ name, priority, type }));
      for (const { cells, object } of table.rows ?? []) {
        const row = rowOf(cells, object.metadata, this.shared);
        seen.add(row.uid);
        this.rows.set(row.uid, row);
      }
      this.total = seen.size + (table.metadata.remainingItemCount ?? 0);
      next = table.metadata.continue ?? '';
      if (!next) {
        for (const uid of this.rows.keys()) if (!seen.has(uid)) this.rows.delete(uid);
        this.ready();
        return table.metadata.resourceVersion;
      }
      this.state = 'filling';
      this.version++;
    }
  }

  private ready(): void {
    this.state = 'ready';
    this.problem = '';
    this.forbidden = false;
    this.total = this.rows.size;
    this.version++;
  }

  /** Follows changes until the stream ends, and returns the version to continue at. */
  private async watch(version: string, signal: AbortSignal): Promise<string> {
    if (!this.kind.verbs.includes('watch')) {
      await pause(5000, signal);
      throw new ApiError(410, {});
    }
    const begun = Date.now();
    const response = await request(this.query({ watch: 'true', resourceVersion: version, allowWatchBookmarks: 'true' }), { accept: asTable, signal });
    try {
      for await (const batch of lines(response)) {
        for (const line of batch) version = this.event(line) ?? version;
      }
    } catch (e) {
      if (e instanceof ApiError || signal.aborted) throw e;
      connection.failed(); // the stream broke off
    }
    if (Date.now() - begun < 1000) await pause(500, signal);
    return version;
  }

  private event(line: string): string | undefined {
    if (!line) return undefined;
    const { type, object } = JSON.parse(line) as { type: string; object: Table & { code?: number; message?: string } };
    if (type === 'ERROR') throw new ApiError(object.code ?? 410, object);
    const version = object.metadata.resourceVersion;
    if (type === 'BOOKMARK') return version || undefined;
    for (const { cells, object: of } of object.rows ?? []) {
      const row = rowOf(cells, of.metadata, this.shared);
      if (type === 'DELETED') this.rows.delete(row.uid);
      else this.rows.set(row.uid, row);
    }
    this.total = this.rows.size;
    this.changed();
    return version || undefined;
  }

  /** Tells readers of a change, at most ten times a second, or twice if there are many rows. */
  private changed(): void {
    if (this.dirty) return;
    this.dirty = true;
    setTimeout(() => {
      this.dirty = false;
      this.version++;
    }, this.rows.size > 3000 ? 500 : 100);
  }
}

/** Stores that several pages share, kept for a while after the last page left them. */
const stores = new Map<string, { store: TableStore; users: number; timer?: ReturnType<typeof setTimeout> }>();
const keepFor = 30_000;

/** A store of a kind's objects, shared with other users of the same. Call the function when it is no longer needed. */
export function useTable(kind: Kind, namespace = '', selectors: { field?: string; label?: string } = {}): [TableStore, () => void] {
  const key = [kind.group, kind.version, kind.plural, namespace, selectors.field ?? '', selectors.label ?? ''].join('|');
  let entry = stores.get(key);
  if (!entry) {
    entry = { store: new TableStore(kind, namespace, selectors), users: 0 };
    stores.set(key, entry);
  }
  const used = entry;
  used.users++;
  clearTimeout(used.timer);
  let released = false;
  return [
    used.store,
    () => {
      if (released) return;
      released = true;
      if (--used.users > 0) return;
      used.timer = setTimeout(() => {
        used.store.close();
        stores.delete(key);
      }, keepFor);
    },
  ];
}

/** Forgets everything, when the user has signed out. */
export function closeTables(): void {
  for (const { store, timer } of stores.values()) {
    clearTimeout(timer);
    store.close();
  }
  stores.clear();
}
