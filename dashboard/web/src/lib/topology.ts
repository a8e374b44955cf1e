// What belongs together on the map: which pods a service or a network policy selects, whom a policy names as peers, and where volumes are.
import type { LabelSelector, NetworkPolicy, NetworkPolicyPeer, PersistentVolume, PersistentVolumeClaim, Pod } from '../gen/kubernetes';

/** A pod as the map knows it. */
export interface Placed {
  ns: string;
  name: string;
  labels?: Record<string, string> | undefined;
}

/** Whether a selector selects labels. An empty one selects all, as in policies. */
export function selects(selector: LabelSelector | undefined, labels: Record<string, string> | undefined): boolean {
  const have = labels ?? {};
  return (
    Object.entries(selector?.matchLabels ?? {}).every(([k, v]) => have[k] === v) &&
    (selector?.matchExpressions ?? []).every(({ key, operator, values }) => {
      const value = have[key];
      switch (operator) {
        case 'In':
          return value !== undefined && !!values?.includes(value);
        case 'NotIn':
          return value === undefined || !values?.includes(value);
        case 'Exists':
          return value !== undefined;
        case 'DoesNotExist':
          return value === undefined;
        default:
          return false;
      }
    })
  );
}

/** Whether a policy applies to a pod. */
export const appliesTo = (policy: NetworkPolicy, pod: Placed): boolean => pod.ns === policy.metadata?.namespace && selects(policy.spec?.podSelector, pod.labels);

/** Whether a peer of a policy in a namespace is a pod. Without the labels of namespaces, only those in the policy's own are known. */
function isPeer(peer: NetworkPolicyPeer, own: string, pod: Placed, namespaces: ReadonlyMap<string, Record<string, string>>): boolean {
  if (peer.ipBlock) return false;
  if (!peer.namespaceSelector) return pod.ns === own && selects(peer.podSelector, pod.labels);
  const labels = namespaces.get(pod.ns);
  return !!labels && selects(peer.namespaceSelector, labels) && selects(peer.podSelector, pod.labels);
}

/** Whether a policy's rules name a pod as a source or a destination. A rule without peers names all. */
export function isNamed(policy: NetworkPolicy, pod: Placed, namespaces: ReadonlyMap<string, Record<string, string>>): boolean {
  const own = policy.metadata?.namespace ?? '';
  const lists = [...(policy.spec?.ingress ?? []).map((r) => r.from), ...(policy.spec?.egress ?? []).map((r) => r.to)];
  return lists.some((peers) => !peers?.length || peers.some((p) => isPeer(p, own, pod, namespaces)));
}

/** What a policy says, in a line. */
export function policyText(policy: NetworkPolicy): string {
  const types = policy.spec?.policyTypes ?? ['Ingress'];
  const say = (type: string, rules: unknown[] | undefined, way: string): string => (types.includes(type) ? `${way} ${rules?.length ? `what ${rules.length === 1 ? 'a rule names' : `${rules.length} rules name`}` : 'nothing'}` : '');
  return [say('Ingress', policy.spec?.ingress, 'lets in'), say('Egress', policy.spec?.egress, 'lets out')].filter(Boolean).join(', ');
}

/** The names of the claims that a pod uses; those of ephemeral volumes have the pod's name before their own. */
export const claimsOf = (pod: Pod): string[] => (pod.spec?.volumes ?? []).flatMap((v) => (v.persistentVolumeClaim ? [v.persistentVolumeClaim.claimName] : v.ephemeral ? [`${pod.metadata?.name}-${v.name}`] : []));

/** The host names that a volume can only be reached from; undefined if it is not bound to any. */
export function hostsOf(volume: PersistentVolume | undefined): string[] | undefined {
  const terms = volume?.spec?.nodeAffinity?.required?.nodeSelectorTerms ?? [];
  const hosts = terms.flatMap((t) => (t.matchExpressions ?? []).filter((e) => e.key === 'kubernetes.io/hostname' && e.operator === 'In').flatMap((e) => e.values ?? []));
  return hosts.length ? hosts : undefined;
}

/** A claim on the map. */
export interface Volume {
  uid: string;
  ns: string;
  name: string;
  phase: string;
  size: string;
}

/** The claims by the host names that they are bound to; '' has those of no single host. */
export function volumesByHost(claims: PersistentVolumeClaim[], volumes: PersistentVolume[]): Map<string, Volume[]> {
  const known = new Map(volumes.map((v) => [v.metadata?.name ?? '', v]));
  const by = new Map<string, Volume[]>();
  for (const c of claims) {
    const hosts = hostsOf(known.get(c.spec?.volumeName ?? ''));
    const host = hosts?.length === 1 ? (hosts[0] ?? '') : (c.metadata?.annotations?.['volume.kubernetes.io/selected-node'] ?? '');
    const entry = { uid: c.metadata?.uid ?? '', ns: c.metadata?.namespace ?? '', name: c.metadata?.name ?? '', phase: c.status?.phase ?? 'Pending', size: c.status?.capacity?.['storage'] ?? c.spec?.resources?.requests?.['storage'] ?? '' };
    const list = by.get(host);
    if (list) list.push(entry);
    else by.set(host, [entry]);
  }
  for (const list of by.values()) list.sort((a, b) => (a.ns + a.name < b.ns + b.name ? -1 : 1));
  return by;
}
