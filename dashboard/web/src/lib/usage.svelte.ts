// Processor and memory in use, from metrics.k8s.io if it is served. Nothing is asked while no page shows it.
import { ApiError, get } from './api.svelte';
import { quantity } from './format';
import { kinds } from './kinds.svelte';

export interface Usage {
  /** Cores. */
  cpu: number;
  /** Bytes. */
  memory: number;
}

interface Measured {
  metadata: { name: string; namespace?: string };
  usage?: { cpu: string; memory: string };
  containers?: { name: string; usage: { cpu: string; memory: string } }[] | null;
}

const every = 10_000;

export const metricsServed = (): boolean => kinds.all.some((k) => k.group === 'metrics.k8s.io');

const usageOf = (u: { cpu: string; memory: string }): Usage => ({ cpu: quantity(u.cpu), memory: quantity(u.memory) });

/** Usage of nodes, or of the pods of a namespace, or of one pod, each by name ("namespace/name" of pods, "namespace/name/container" too). */
export class UsageStore {
  now = $state.raw(new Map<string, Usage>());
  /** Why there is nothing to show, if there is not. */
  problem = $state('');
  private stopped = false;
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor(private readonly path: string) {
    void this.run();
  }

  close(): void {
    this.stopped = true;
    clearTimeout(this.timer);
  }

  private async run(): Promise<void> {
    if (!document.hidden || !this.now.size) await this.read();
    if (!this.stopped) this.timer = setTimeout(() => void this.run(), every);
  }

  private async read(): Promise<void> {
    if (!metricsServed()) {
      this.problem = 'The cluster does not serve metrics.k8s.io.';
      return;
    }
    try {
      const version = kinds.all.find((k) => k.group === 'metrics.k8s.io')?.version ?? 'v1beta1';
      const answer = await get<Measured & { items?: Measured[] | null }>(`/apis/metrics.k8s.io/${version}/${this.path}`);
      const now = new Map<string, Usage>();
      for (const m of answer.items ?? (answer.items === undefined ? [answer] : [])) {
        const name = m.metadata.namespace ? `${m.metadata.namespace}/${m.metadata.name}` : m.metadata.name;
        if (m.usage) now.set(name, usageOf(m.usage));
        const total: Usage = { cpu: 0, memory: 0 };
        for (const c of m.containers ?? []) {
          const u = usageOf(c.usage);
          now.set(`${name}/${c.name}`, u);
          total.cpu += u.cpu;
          total.memory += u.memory;
        }
        if (m.containers) now.set(name, total);
      }
      this.now = now;
      this.problem = '';
    } catch (e) {
      if (e instanceof ApiError && e.status) this.problem = e.message;
    }
  }
}
