// The cluster's status as the masters collect it (/kontiki/v1/cluster).
import { ApiError, get, message } from './api.svelte';

export interface Member {
  name: string;
  role: string;
  address: string;
  apiAddress?: string;
  version: string;
  health: string;
  lastContact: string;
  roundTrip?: string;
  gossip: string;
  appliedIndex: number;
  lastIndex: number;
  diskWrite?: string;
  diskFree?: number;
  diskTotal?: number;
  certificateExpires?: string;
}
export interface ClusterStatus {
  clusterID: string;
  leader: string;
  term: number;
  commitIndex: number;
  revision: number;
  featureLevel: number;
  behind?: string[];
  failuresTolerated: number;
  members: Member[];
  problems: string[];
}

const every = 2000;
const patience = 6000;

export class ClusterStore {
  status = $state.raw<ClusterStatus>();
  problem = $state('');
  forbidden = $state(false);
  /** When the status was read. */
  at = $state(0);
  /** The last change of leadership that was seen. */
  change = $state.raw<{ from: string; to: string; at: number }>();
  private led = '';
  private stopped = false;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private readonly wake = (): void => {
    if (!document.hidden) this.soon(0);
  };

  constructor() {
    document.addEventListener('visibilitychange', this.wake);
    void this.read();
  }

  close(): void {
    this.stopped = true;
    clearTimeout(this.timer);
    document.removeEventListener('visibilitychange', this.wake);
  }

  private soon(ms: number): void {
    clearTimeout(this.timer);
    if (!this.stopped && !document.hidden) this.timer = setTimeout(() => void this.read(), ms);
  }

  private async read(): Promise<void> {
    let wait = every;
    try {
      this.take(await get<ClusterStatus>('/kontiki/v1/cluster', AbortSignal.timeout(patience)));
      [this.problem, this.forbidden] = ['', false];
    } catch (e) {
      this.forbidden = e instanceof ApiError && e.status === 403;
      this.problem = e instanceof ApiError ? message(e) : `No master answered within ${patience / 1000} seconds.`;
      wait = this.forbidden ? 30_000 : 500;
    }
    this.soon(wait);
  }

  private take(s: ClusterStatus): void {
    if (s.leader && this.led && s.leader !== this.led) this.change = { from: this.led, to: s.leader, at: Date.now() };
    if (s.leader) this.led = s.leader;
    this.status = s;
    this.at = Date.now();
  }
}
