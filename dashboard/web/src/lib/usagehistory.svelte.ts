// What was used in the last day, which every master keeps in memory.
import { aborted, get, message } from './api.svelte';
import { metricsServed } from './usage.svelte';

export type Of = 'nodes' | 'namespaces' | 'workloads' | 'pods' | 'containers';
export type Resource = 'cpu' | 'memory';

/** Cores and bytes. */
export interface Use {
  cpu: number;
  memory: number;
}

export interface UsageItem {
  namespace?: string;
  kind?: string;
  name: string;
  uid?: string;
  container?: string;
  gone?: boolean;
  now?: Use;
  mean: Use;
  peak: Use;
  requests: Use;
  limits: Use;
  unlimited: Use;
  cpu?: (number | null)[];
  memory?: (number | null)[];
}

export interface UsageAnswer {
  of: Of;
  /** Seconds since 1970, and between two points. */
  from: number;
  step: number;
  count: number;
  items: UsageItem[];
  left?: number;
  unrecorded?: number;
  began: string;
}

export interface UsageQuery {
  of: Of;
  namespace?: string | undefined;
  kind?: string | undefined;
  name?: string | undefined;
  since: string;
  by?: Resource;
  limit?: number;
  points?: number;
}

/** The answer to a query, read again every half minute while the page is in sight. */
export class UsageHistory {
  answer = $state.raw<UsageAnswer>();
  problem = $state('');
  private stop = new AbortController();
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor(query: UsageQuery) {
    const q = new URLSearchParams(Object.entries(query).filter(([, v]) => v !== undefined && v !== '').map(([k, v]) => [k, String(v)] as [string, string]));
    void this.run(`/kontiki/v1/usage?${q}`);
  }

  close(): void {
    this.stop.abort();
    clearTimeout(this.timer);
  }

  private async run(path: string): Promise<void> {
    if (metricsServed() && (!document.hidden || !this.answer)) {
      try {
        this.answer = await get<UsageAnswer>(path, this.stop.signal);
        this.problem = '';
      } catch (e) {
        if (aborted(e) || this.stop.signal.aborted) return;
        this.problem = message(e);
      }
    }
    if (!this.stop.signal.aborted) this.timer = setTimeout(() => void this.run(path), 30_000);
  }
}

/** Where a chart's scale ends: above what was used, and above a mark if that does not make what was used too small to be read. */
export function scaleEnd(used: (number | null)[][], marks: number[], least: number): number {
  const peak = Math.max(0, ...used.map((values) => values.reduce<number>((most, v) => Math.max(most, v ?? 0), 0)));
  const near = marks.filter((m) => m <= Math.max(peak * 4, least));
  return Math.max(peak * 1.15, ...near.map((m) => m * 1.05), least);
}

/** The newest value that is known. */
export function newest(values: (number | null)[] | undefined): number | undefined {
  for (let i = (values?.length ?? 0) - 1; i >= 0; i--) {
    const v = values?.[i];
    if (v !== null && v !== undefined) return v;
  }
  return undefined;
}

/** A workload's kind as the API's plural name with its group; undefined of those that the page does not know. */
export const workloadKinds: Record<string, { group: string; plural: string }> = {
  Deployment: { group: 'apps', plural: 'deployments' }, StatefulSet: { group: 'apps', plural: 'statefulsets' }, DaemonSet: { group: 'apps', plural: 'daemonsets' },
  ReplicaSet: { group: 'apps', plural: 'replicasets' }, Job: { group: 'batch', plural: 'jobs' }, CronJob: { group: 'batch', plural: 'cronjobs' },
  ReplicationController: { group: '', plural: 'replicationcontrollers' }, Pod: { group: '', plural: 'pods' },
};
