// How values are shown.

/** A duration as kubectl shows ages: its two largest units. */
export function duration(ms: number): string {
  const s = Math.max(0, Math.floor(ms / 1000));
  if (s < 120) return `${s}s`;
  const m = Math.floor(s / 60);
  if (m < 10) return s % 60 ? `${m}m${s % 60}s` : `${m}m`;
  if (m < 180) return `${m}m`;
  const h = Math.floor(m / 60);
  if (h < 8) return m % 60 ? `${h}h${m % 60}m` : `${h}h`;
  if (h < 48) return `${h}h`;
  const d = Math.floor(h / 24);
  if (d < 8) return h % 24 ? `${d}d${h % 24}h` : `${d}d`;
  if (d < 365 * 2) return `${d}d`;
  const y = Math.floor(d / 365);
  return d % 365 ? `${y}y${d % 365}d` : `${y}y`;
}

export const since = (time: string | undefined, now: number): string => (time ? duration(now - Date.parse(time)) : '');

const units = ['', 'Ki', 'Mi', 'Gi', 'Ti', 'Pi'];

/** Bytes with a binary unit and at most three digits. */
export function bytes(n: number): string {
  let i = 0;
  while (n >= 1000 && i < units.length - 1) {
    n /= 1024;
    i++;
  }
  return `${n >= 100 || i === 0 ? Math.round(n) : n >= 10 ? n.toFixed(1).replace(/\.0$/, '') : n.toFixed(2).replace(/\.?0+$/, '')} ${units[i]}B`;
}

/** Cores, as millicores below one. */
export function cores(n: number): string {
  if (n === 0) return '0';
  if (n < 1) return `${Math.max(1, Math.round(n * 1000))} m`;
  return n >= 100 ? String(Math.round(n)) : n.toFixed(n >= 10 ? 1 : 2).replace(/\.?0+$/, '');
}

const scales: Record<string, number> = {
  n: 1e-9, u: 1e-6, m: 1e-3, '': 1, k: 1e3, M: 1e6, G: 1e9, T: 1e12, P: 1e15, E: 1e18, Ki: 2 ** 10, Mi: 2 ** 20, Gi: 2 ** 30, Ti: 2 ** 40, Pi: 2 ** 50, Ei: 2 ** 60,
};

/** The number of a quantity (100m, 1.5Gi, 2e3); 0 if it is none. */
export function quantity(text: string | number | undefined): number {
  if (typeof text === 'number') return text;
  const match = /^([+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)([numkKMGTPE]i?|)$/.exec(text?.trim() ?? '');
  if (!match) return 0;
  return Number(match[1]) * (scales[match[2] ?? ''] ?? 1);
}

export const count = (n: number, one: string, many = one + 's'): string => `${n.toLocaleString('en')} ${n === 1 ? one : many}`;

/** Milliseconds of a duration as Go prints it (1h2m3.5s, 9ms, 120µs); undefined if it is none. */
export function goDuration(text: string): number | undefined {
  const scale: Record<string, number> = { h: 3_600_000, m: 60_000, s: 1000, ms: 1, µs: 1e-3, us: 1e-3, ns: 1e-6 };
  if (text === '0s') return 0;
  let ms = 0;
  let rest = text;
  while (rest) {
    const match = /^([0-9.]+)(h|ms|µs|us|ns|m|s)/.exec(rest);
    if (!match?.[1] || !match[2]) return undefined;
    ms += Number(match[1]) * (scale[match[2]] ?? 0);
    rest = rest.slice(match[0].length);
  }
  return text ? ms : undefined;
}

export type Tone = 'ok' | 'warn' | 'bad' | 'busy' | 'off';

const tones: [RegExp, Tone][] = [
  [/^(Running|Ready|Active|Bound|Available|Complete|Completed|Succeeded|True|ok|alive|Normal|Approved,Issued|Established|leader|voter)$/, 'ok'],
  [/^(Terminating|Pending|ContainerCreating|PodInitializing|Init:\d|Released|nonvoter|behind|suspect|Progressing|Unknown|SchedulingDisabled|SchedulingGated)|SchedulingDisabled|^no-leader/, 'warn'],
  [/(Error|Err|BackOff|Failed|Evicted|OOM|Invalid|NotReady|Lost|dead|unreachable|disk|Unavailable|Warning|Cannot|Unschedulable|Timeout)/, 'bad'],
];

/** How a status is coloured. */
export function tone(status: string): Tone {
  for (const [pattern, t] of tones) if (pattern.test(status)) return t;
  return 'off';
}

/** How a pod's numbers of containers ("2/3") are coloured. */
export function readyTone(ready: string): Tone {
  const [have, want] = ready.split('/').map(Number);
  if (have === undefined || want === undefined) return 'off';
  return have === want ? 'ok' : 'warn';
}
