// What is degraded in the cluster, why, and what to do next.
import type { ClusterStatus } from './cluster.svelte';
import { tone } from './format';
import type { Row } from './table.svelte';

export interface Finding {
  tone: 'bad' | 'warn';
  what: string;
  why: string;
  next: string;
  href?: string;
}

const nextSteps: [RegExp, string][] = [
  [/does not answer/, 'Look at the host; a master that starts again catches up by itself. If it is gone for good, start an empty one under its name.'],
  [/no master leads/, 'Bring back masters until a majority runs. Without one: kontiki server recover (docs/operations.md).'],
  [/catches up/, 'Nothing, unless it stays behind: then look at its disk and network.'],
  [/disk/, 'Free space on its disk, or move its data to a larger one.'],
  [/certificate/, 'It should have been renewed by itself: look at the master’s log.'],
  [/one more failure/, 'Bring back the masters that are missing before anything else.'],
  [/knows of no leader/, 'Nothing, if it lasts for seconds; else look at the network between the masters.'],
];

export function ofCluster(s: ClusterStatus | undefined): Finding[] {
  return (s?.problems ?? []).map((problem): Finding => {
    const [what, ...rest] = problem.split('; ');
    const bad = /does not answer|no master leads|one more failure|full|disk/.test(problem);
    return { tone: bad ? 'bad' : 'warn', what: upper(what ?? problem), why: rest.join('; '), next: nextSteps.find(([p]) => p.test(problem))?.[1] ?? 'See docs/operations.md.' };
  });
}

const upper = (s: string): string => s.charAt(0).toUpperCase() + s.slice(1);

export function ofNodes(rows: Row[], status: number): Finding[] {
  return rows.flatMap((r): Finding[] => {
    const s = String(r.cells[status]);
    const href = `/ui/object/nodes/-/${encodeURIComponent(r.name)}`;
    if (s.startsWith('NotReady')) return [{ tone: 'bad', what: `Node ${r.name} is not ready`, why: 'Its worker does not answer; its pods are evicted as their tolerations say.', next: 'Look at its conditions, then at the host.', href }];
    if (s.includes('SchedulingDisabled')) return [{ tone: 'warn', what: `Node ${r.name} takes no new pods`, why: 'It is cordoned.', next: 'Uncordon it when the work on it is done.', href }];
    return [];
  });
}

/** What statuses of pods mean. */
const meanings: [RegExp, string, string][] = [
  [/CrashLoopBackOff/, 'A container ends again and again.', 'Read its last log.'],
  [/ImagePull|ErrImage|InvalidImageName/, 'An image cannot be pulled.', 'Check its name, and the registry’s credentials.'],
  [/CreateContainer(Config)?Error|RunContainerError/, 'A container cannot be created.', 'Look at the events: mostly a Secret or ConfigMap is missing.'],
  [/OOMKilled/, 'A container needed more memory than its limit.', 'Raise the limit, or find the leak.'],
  [/Evicted/, 'The node ran out of something.', 'Look at the node’s conditions.'],
  [/^Pending/, 'No node takes it.', 'See why.'],
  [/ContainerCreating|PodInitializing|Init:/, 'It has been starting for minutes.', 'See why.'],
  [/Terminating/, 'It has been ending for minutes.', 'Look at its finalizers and its node.'],
  [/Error|Failed/, 'A container failed.', 'Read its log.'],
];

/** The part of a pod's name that its siblings share: without the generated suffixes. */
export const stem = (name: string): string => name.replace(/-[a-z0-9]{8,10}-[a-z0-9]{5}$|-[0-9]{8}-[a-z0-9]{5}$|-[a-z0-9]{5}$|-[0-9]+$/, '');

/** How long a pod may be on its way before it is worth a look. */
const patience = 60_000;

export function ofPods(rows: Row[], status: number, now: number): Finding[] {
  const groups = new Map<string, { rows: Row[]; state: string }>();
  for (const r of rows) {
    const s = String(r.cells[status]);
    const bad = tone(s) === 'bad';
    const slow = (/^(Pending|ContainerCreating|PodInitializing|Init:|Terminating)/.test(s) || tone(s) === 'warn') && now - r.created > patience * (s === 'Terminating' ? 5 : 1);
    if (!bad && !slow) continue;
    const key = `${r.ns}/${stem(r.name)}/${s}`;
    const group = groups.get(key);
    if (group) group.rows.push(r);
    else groups.set(key, { rows: [r], state: s });
  }
  return [...groups.values()].map(({ rows: [first, ...more], state }): Finding => {
    const [, why, next] = meanings.find(([p]) => p.test(state)) ?? [/x/, '', 'Look at its events.'];
    const name = first ? stem(first.name) : '';
    const tab = next.includes('log') ? 'logs' : 'why';
    return {
      tone: tone(state) === 'bad' ? 'bad' : 'warn',
      what: `${more.length ? `${more.length + 1} pods of ${name}` : `Pod ${first?.name}`} in ${first?.ns}: ${state}`,
      why, next, href: `/ui/object/pods/${first?.ns}/${first?.name}/${tab}`,
    };
  });
}

export function ofClaims(rows: Row[], status: number, now: number): Finding[] {
  return rows
    .filter((r) => /Pending|Lost/.test(String(r.cells[status])) && now - r.created > patience)
    .map((r): Finding => ({
      tone: String(r.cells[status]) === 'Lost' ? 'bad' : 'warn', what: `Volume claim ${r.name} in ${r.ns}: ${r.cells[status]}`,
      why: String(r.cells[status]) === 'Lost' ? 'Its volume is gone.' : 'It has no volume: it waits for a pod that uses it, or for a provisioner.', next: 'Look at its events.', href: `/ui/object/persistentvolumeclaims/${r.ns}/${r.name}`,
    }));
}
