// The images of pods' containers, which the table of pods does not have. They are read when somebody looks for one, page by page, and of each pod
// only its images are kept.
import { aborted, get } from './api.svelte';
import { pathOf, type Kind } from './kinds.svelte';
import type { Pod } from '../gen/kubernetes';

export class ImageIndex {
  version = $state(0);
  busy = $state(true);
  private byUID = new Map<string, string>();
  private shared = new Map<string, string>();
  private stop = new AbortController();

  constructor(kind: Kind, namespace: string) {
    void this.read(kind, namespace).catch((e: unknown) => {
      if (!aborted(e)) this.busy = false;
    });
  }

  close(): void {
    this.stop.abort();
  }

  of(uid: string): string {
    return this.byUID.get(uid) ?? '';
  }

  private async read(kind: Kind, namespace: string): Promise<void> {
    for (let next = ''; ; ) {
      const q = new URLSearchParams({ limit: '500' });
      if (next) q.set('continue', next);
      const list = await get<{ metadata: { continue?: string }; items: Pod[] | null }>(`${pathOf(kind, namespace)}?${q}`, this.stop.signal);
      for (const pod of list.items ?? []) {
        const all = [...(pod.spec?.initContainers ?? []), ...(pod.spec?.containers ?? [])].map((c) => c.image ?? '').join(' ').toLowerCase();
        if (!this.shared.has(all)) this.shared.set(all, all);
        this.byUID.set(pod.metadata?.uid ?? '', this.shared.get(all) ?? all);
      }
      this.version++;
      next = list.metadata.continue ?? '';
      if (!next) break;
    }
    this.busy = false;
  }
}
