// What matters of an object, by its kind: titles and values, some with links.
import type { CronJob, DaemonSet, Deployment, Job, Node, PersistentVolumeClaim, Pod, Service, StatefulSet } from '../gen/kubernetes';
import { bytes, cores, count, quantity } from './format';
import type { Obj } from './objects.svelte';

export interface Fact {
  title: string;
  value: string;
  href?: string;
  /** It is shown as a status. */
  status?: boolean;
}

const list = (values: (string | undefined)[] | undefined): string => (values ?? []).filter(Boolean).join(', ');
const object = (kind: string, ns: string | undefined, name: string): string => `/ui/object/${kind}/${ns ?? '-'}/${encodeURIComponent(name)}`;

/** The status of a pod as kubectl shows it. */
export function podStatus(pod: Pod): string {
  const { status } = pod;
  const init = status?.initContainerStatuses ?? [];
  let reason = status?.reason || status?.phase || 'Unknown';
  for (const [i, c] of init.entries()) {
    const sidecar = pod.spec?.initContainers?.find((s) => s.name === c.name)?.restartPolicy === 'Always';
    if (c.state?.terminated?.exitCode === 0 || (sidecar && c.started)) continue;
    const t = c.state?.terminated;
    if (t) reason = `Init:${t.reason || `ExitCode:${t.exitCode}`}`;
    else if (c.state?.waiting?.reason && c.state.waiting.reason !== 'PodInitializing') reason = `Init:${c.state.waiting.reason}`;
    else reason = `Init:${i}/${pod.spec?.initContainers?.length ?? 0}`;
    return pod.metadata?.deletionTimestamp ? 'Terminating' : reason;
  }
  for (const c of [...(status?.containerStatuses ?? [])].reverse()) {
    const { waiting, terminated } = c.state ?? {};
    if (waiting?.reason) reason = waiting.reason;
    else if (terminated) reason = terminated.reason || `ExitCode:${terminated.exitCode}`;
  }
  return pod.metadata?.deletionTimestamp ? 'Terminating' : reason;
}

type Maker = (o: Obj) => (Fact | undefined | false)[];

const makers: Record<string, Maker> = {
  pods: (o) => {
    const p = o as unknown as Pod;
    return [
      { title: 'Status', value: podStatus(p), status: true },
      p.status?.message ? { title: 'Message', value: p.status.message } : undefined,
      { title: 'Node', value: p.spec?.nodeName ?? 'none yet', ...(p.spec?.nodeName ? { href: object('nodes', undefined, p.spec.nodeName) } : {}) },
      { title: 'Address', value: list(p.status?.podIPs?.map((i) => i.ip)) || 'none yet' },
      { title: 'Quality of service', value: p.status?.qosClass ?? '' },
      { title: 'Priority', value: `${p.spec?.priority ?? 0}${p.spec?.priorityClassName ? ` (${p.spec.priorityClassName})` : ''}` },
      { title: 'Restart policy', value: p.spec?.restartPolicy ?? '' },
      { title: 'Service account', value: p.spec?.serviceAccountName ?? '', href: object('serviceaccounts', p.metadata?.namespace, p.spec?.serviceAccountName ?? '') },
    ];
  },
  'deployments.apps': (o) => {
    const { spec, status, metadata } = o as unknown as Deployment;
    return [
      { title: 'Replicas', value: `${status?.readyReplicas ?? 0} ready of ${spec?.replicas ?? 1}; ${status?.updatedReplicas ?? 0} up to date, ${status?.availableReplicas ?? 0} available` },
      { title: 'Revision', value: metadata?.annotations?.['deployment.kubernetes.io/revision'] ?? '' },
      { title: 'Strategy', value: spec?.strategy?.type === 'RollingUpdate' ? `RollingUpdate, ${spec.strategy.rollingUpdate?.maxUnavailable ?? ''} unavailable, ${spec.strategy.rollingUpdate?.maxSurge ?? ''} more` : (spec?.strategy?.type ?? '') },
      spec?.paused && { title: 'Paused', value: 'changes of the template are not rolled out' },
    ];
  },
  'statefulsets.apps': (o) => {
    const { spec, status } = o as unknown as StatefulSet;
    return [
      { title: 'Replicas', value: `${status?.readyReplicas ?? 0} ready of ${spec?.replicas ?? 1}; ${status?.updatedReplicas ?? 0} up to date` },
      { title: 'Service', value: spec?.serviceName ?? '' },
      { title: 'Updates', value: `${spec?.updateStrategy?.type ?? ''}, ${spec?.podManagementPolicy ?? ''}` },
    ];
  },
  'daemonsets.apps': (o) => {
    const { status, spec } = o as unknown as DaemonSet;
    return [{ title: 'Pods', value: `${status?.numberReady ?? 0} ready of ${status?.desiredNumberScheduled ?? 0}; ${status?.updatedNumberScheduled ?? 0} up to date` }, { title: 'Updates', value: spec?.updateStrategy?.type ?? '' }];
  },
  'jobs.batch': (o) => {
    const { spec, status } = o as unknown as Job;
    return [
      { title: 'Completions', value: `${status?.succeeded ?? 0} of ${spec?.completions ?? 1}; ${status?.active ?? 0} active, ${status?.failed ?? 0} failed` },
      { title: 'Parallelism', value: String(spec?.parallelism ?? 1) },
      { title: 'Retries', value: `at most ${spec?.backoffLimit ?? 6}` },
      spec?.suspend && { title: 'Suspended', value: 'yes' },
    ];
  },
  'cronjobs.batch': (o) => {
    const { spec, status } = o as unknown as CronJob;
    return [
      { title: 'Schedule', value: `${spec?.schedule ?? ''}${spec?.timeZone ? ` (${spec.timeZone})` : ''}` },
      { title: 'Suspended', value: spec?.suspend ? 'yes' : 'no' },
      { title: 'Last run', value: status?.lastScheduleTime ? new Date(status.lastScheduleTime).toLocaleString() : 'never' },
      { title: 'Concurrency', value: spec?.concurrencyPolicy ?? '' },
    ];
  },
  services: (o) => {
    const { spec, status } = o as unknown as Service;
    return [
      { title: 'Type', value: spec?.type ?? '' },
      { title: 'Address', value: list(spec?.clusterIPs) },
      { title: 'External', value: list([...(spec?.externalIPs ?? []), spec?.externalName, ...(status?.loadBalancer?.ingress ?? []).map((i) => i.ip ?? i.hostname)]) },
      { title: 'Ports', value: list(spec?.ports?.map((p) => `${p.name ? p.name + ' ' : ''}${p.port}${p.nodePort ? `:${p.nodePort}` : ''}/${p.protocol} to ${p.targetPort}`)) },
      { title: 'Selector', value: list(Object.entries(spec?.selector ?? {}).map(([k, v]) => `${k}=${v}`)) || 'none' },
    ];
  },
  nodes: (o) => {
    const { spec, status } = o as unknown as Node;
    const a = status?.allocatable ?? {};
    return [
      { title: 'Schedulable', value: spec?.unschedulable ? 'no, it is cordoned' : 'yes' },
      { title: 'Addresses', value: list(status?.addresses?.map((x) => `${x.address} (${x.type})`)) },
      { title: 'Allocatable', value: `${cores(quantity(a['cpu']))} cores, ${bytes(quantity(a['memory']))} memory, ${bytes(quantity(a['ephemeral-storage']))} disk, ${count(quantity(a['pods']), 'pod')}` },
      { title: 'Taints', value: list(spec?.taints?.map((t) => `${t.key}${t.value ? '=' + t.value : ''}:${t.effect}`)) || 'none' },
      { title: 'System', value: list([status?.nodeInfo?.osImage, status?.nodeInfo?.kernelVersion, status?.nodeInfo?.architecture]) },
      { title: 'Runtime', value: status?.nodeInfo?.containerRuntimeVersion ?? '' },
      { title: 'Version', value: status?.nodeInfo?.kubeletVersion ?? '' },
      { title: 'Pod range', value: list(spec?.podCIDRs) },
    ];
  },
  persistentvolumeclaims: (o) => {
    const { spec, status } = o as unknown as PersistentVolumeClaim;
    return [
      { title: 'Status', value: status?.phase ?? '', status: true },
      { title: 'Volume', value: spec?.volumeName ?? 'none yet', ...(spec?.volumeName ? { href: object('persistentvolumes', undefined, spec.volumeName) } : {}) },
      { title: 'Capacity', value: status?.capacity?.['storage'] ?? `asked for ${spec?.resources?.requests?.['storage'] ?? ''}` },
      { title: 'Class', value: spec?.storageClassName ?? '' },
      { title: 'Access', value: list(spec?.accessModes) },
    ];
  },
};

/** Scalars of the specification and the status, for kinds that are not known here. */
function general(o: Obj): Fact[] {
  const facts: Fact[] = [];
  for (const part of ['spec', 'status'] as const) {
    const of = o[part];
    if (typeof of !== 'object' || of === null) continue;
    for (const [key, value] of Object.entries(of as Record<string, unknown>)) {
      if (typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean') {
        facts.push({ title: key.replace(/([a-z])([A-Z])/g, '$1 $2').replace(/^./, (c) => c.toUpperCase()), value: String(value), status: key === 'phase' });
      }
    }
  }
  return facts.slice(0, 24);
}

export function factsOf(kindName: string, o: Obj): Fact[] {
  const facts = makers[kindName]?.(o) ?? general(o);
  return facts.filter((f): f is Fact => !!f && f.value !== '');
}
