// Single objects, and small sets of them, that are watched.
import { aborted, ApiError, lines, message, pause, request } from './api.svelte';
import type { ObjectMeta } from '../gen/kubernetes';
import { pathOf, type Kind } from './kinds.svelte';

export interface Obj {
  apiVersion?: string;
  kind?: string;
  metadata: ObjectMeta;
  [key: string]: unknown;
}

/** The metadata alone, for kinds whose content is hidden. */
const metadataOnly = { get: 'application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1', list: 'application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1', watch: 'application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1' };

/** The objects of a kind that match selectors, kept up to date. */
export class ObjectsStore<T extends Obj = Obj> {
  items = $state.raw<T[]>([]);
  state = $state<'loading' | 'ready' | 'failed'>('loading');
  problem = $state('');
  status = $state(0);
  private byUID = new Map<string, T>();
  private stop = new AbortController();
  private pending = false;

  constructor(
    readonly kind: Kind,
    readonly namespace: string,
    readonly selectors: { field?: string | undefined; label?: string | undefined } = {},
    readonly hidden = false,
    readonly limit = 2000,
    /** The only object of interest, which is read by itself if the user may not list. */
    readonly single = '',
  ) {
    void this.run();
  }

  close(): void {
    this.stop.abort();
  }

  private url(more: Record<string, string>): string {
    const q = new URLSearchParams(more);
    if (this.selectors.field) q.set('fieldSelector', this.selectors.field);
    if (this.selectors.label) q.set('labelSelector', this.selectors.label);
    return pathOf(this.kind, this.namespace) + '?' + q.toString();
  }

  private async run(): Promise<void> {
    const { signal } = this.stop;
    for (let wait = 500; !signal.aborted; ) {
      try {
        const answer = await request(this.url({ limit: String(this.limit) }), { accept: this.hidden ? metadataOnly.list : 'application/json', signal });
        const list = (await answer.json()) as { metadata: { resourceVersion: string }; items: T[] | null };
        this.byUID = new Map((list.items ?? []).map((o) => [o.metadata.uid ?? o.metadata.name ?? '', o]));
        this.publish();
        [this.state, this.problem, wait] = ['ready', '', 500];
        if (!this.kind.verbs.includes('watch')) {
          await pause(5000, signal);
          continue;
        }
        for (let version = list.metadata.resourceVersion; !signal.aborted; ) version = await this.watch(version, signal);
      } catch (e) {
        if (signal.aborted || aborted(e)) return;
        if (e instanceof ApiError && e.status === 410) continue;
        this.status = e instanceof ApiError ? e.status : 0;
        this.problem = message(e);
        if (this.status === 403 && this.single && (await this.readSingle(signal))) {
          await pause(5000, signal).catch(() => {});
          continue;
        }
        if (!this.byUID.size) this.state = 'failed';
        await pause(this.status === 403 ? 15_000 : wait, signal).catch(() => {});
        wait = Math.min(wait * 2, 5000);
      }
    }
  }

  /** Reads the only object of interest, and says whether that was allowed. */
  private async readSingle(signal: AbortSignal): Promise<boolean> {
    try {
      const answer = await request(pathOf(this.kind, this.namespace, this.single), { accept: this.hidden ? metadataOnly.get : 'application/json', signal });
      const object = (await answer.json()) as T;
      this.byUID = new Map([[object.metadata.uid ?? '', object]]);
    } catch (e) {
      if (!(e instanceof ApiError && e.status === 404)) return false;
      this.byUID.clear();
    }
    [this.state, this.problem] = ['ready', ''];
    this.publish();
    return true;
  }

  private async watch(version: string, signal: AbortSignal): Promise<string> {
    const begun = Date.now();
    const response = await request(this.url({ watch: 'true', resourceVersion: version, allowWatchBookmarks: 'true' }), { accept: this.hidden ? metadataOnly.watch : 'application/json', signal });
    try {
      for await (const batch of lines(response)) {
        for (const line of batch) {
          if (!line) continue;
          const { type, object } = JSON.parse(line) as { type: string; object: T & { code?: number } };
          if (type === 'ERROR') throw new ApiError(object.code ?? 410, object as object);
          version = object.metadata.resourceVersion ?? version;
          if (type === 'BOOKMARK') continue;
          const uid = object.metadata.uid ?? object.metadata.name ?? '';
          if (type === 'DELETED') this.byUID.delete(uid);
          else this.byUID.set(uid, object);
          this.later();
        }
      }
    } catch (e) {
      if (e instanceof ApiError || signal.aborted) throw e;
    }
    if (Date.now() - begun < 1000) await pause(500, signal);
    return version;
  }

  private later(): void {
    if (this.pending) return;
    this.pending = true;
    setTimeout(() => {
      this.pending = false;
      this.publish();
    }, 80);
  }

  private publish(): void {
    this.items = [...this.byUID.values()];
  }
}

/** One object, kept up to date. */
export class ObjectStore<T extends Obj = Obj> {
  private store: ObjectsStore<T>;
  constructor(kind: Kind, namespace: string, name: string, hidden = false) {
    this.store = new ObjectsStore<T>(kind, namespace, { field: `metadata.name=${name}` }, hidden, 2, name);
  }
  get value(): T | undefined {
    return this.store.items[0];
  }
  get state(): 'loading' | 'ready' | 'missing' | 'failed' {
    return this.store.state === 'ready' && !this.store.items.length ? 'missing' : this.store.state;
  }
  get problem(): string {
    return this.store.problem;
  }
  get status(): number {
    return this.store.status;
  }
  close(): void {
    this.store.close();
  }
}
