// Objects that belong together.
import type { ObjectMeta, Pod, Service } from '../gen/kubernetes';
import { ApiError, get, text } from './api.svelte';
import { kinds, pathOf, type Kind } from './kinds.svelte';

export interface Ref {
  kind: Kind;
  ns: string;
  name: string;
  /** What it is to the other object. */
  as: string;
}

/** The kinds that others own. */
const owned = ['replicasets.apps', 'pods', 'jobs.batch', 'controllerrevisions.apps', 'endpointslices.discovery.k8s.io', 'persistentvolumeclaims'];

const metadataList = 'application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1';

async function metadata(kind: Kind, namespace: string, signal?: AbortSignal): Promise<ObjectMeta[]> {
  const all: ObjectMeta[] = [];
  for (let next = ''; ; ) {
    const q = new URLSearchParams({ limit: '500' });
    if (next) q.set('continue', next);
    const list = JSON.parse(await text(`${pathOf(kind, namespace)}?${q}`, metadataList, signal)) as { metadata: { continue?: string }; items: { metadata: ObjectMeta }[] | null };
    all.push(...(list.items ?? []).map((i) => i.metadata));
    next = list.metadata.continue ?? '';
    if (!next || all.length >= 20_000) return all;
  }
}

/** The objects of a namespace that an object owns, and those that these own: what is deleted with it. Kinds that the user may not list are left out. */
export async function dependents(uid: string, namespace: string, signal?: AbortSignal): Promise<Ref[]> {
  const lists = await Promise.all(
    owned.map(async (name) => {
      const kind = kinds.get(name);
      if (!kind) return [];
      try {
        return (await metadata(kind, namespace, signal)).map((m) => ({ kind, m }));
      } catch (e) {
        if (e instanceof ApiError && (e.status === 403 || e.status === 404)) return [];
        throw e;
      }
    }),
  );
  const found: Ref[] = [];
  const of = new Set([uid]);
  for (let grew = true; grew; ) {
    grew = false;
    for (const { kind, m } of lists.flat()) {
      if (of.has(m.uid ?? '') || !m.ownerReferences?.some((o) => of.has(o.uid))) continue;
      of.add(m.uid ?? '');
      found.push({ kind, ns: m.namespace ?? '', name: m.name ?? '', as: kind.kind });
      grew = true;
    }
  }
  return found;
}

/** How many objects of each kind a namespace has. */
export async function contents(namespace: string, signal?: AbortSignal): Promise<{ kind: Kind; count: number }[]> {
  const counted = await Promise.all(
    kinds.all
      .filter((k) => k.namespaced && k.verbs.includes('list') && k.plural !== 'events' && k.group !== 'metrics.k8s.io')
      .map(async (kind) => {
        try {
          const list = JSON.parse(await text(`${pathOf(kind, namespace)}?limit=1`, metadataList, signal)) as { metadata: { remainingItemCount?: number }; items: unknown[] | null };
          return { kind, count: (list.items?.length ?? 0) + (list.metadata.remainingItemCount ?? 0) };
        } catch {
          return { kind, count: 0 };
        }
      }),
  );
  return counted.filter((c) => c.count > 0).sort((a, b) => b.count - a.count);
}

/** The objects that a pod's specification names. */
export function namedBy(pod: Pod): Ref[] {
  const ns = pod.metadata?.namespace ?? '';
  const found = new Map<string, Ref>();
  const add = (kindName: string, name: string | undefined, as: string, namespace = ns): void => {
    const kind = kinds.get(kindName);
    if (kind && name) found.set(`${kindName}/${name}`, { kind, ns: namespace, name, as });
  };
  add('nodes', pod.spec?.nodeName, 'Node', '');
  add('serviceaccounts', pod.spec?.serviceAccountName, 'Service account');
  for (const v of pod.spec?.volumes ?? []) {
    add('configmaps', v.configMap?.name, 'Config map');
    add('secrets', v.secret?.secretName, 'Secret');
    add('persistentvolumeclaims', v.persistentVolumeClaim?.claimName, 'Volume claim');
    for (const s of v.projected?.sources ?? []) {
      if (s.configMap?.name !== 'kube-root-ca.crt') add('configmaps', s.configMap?.name, 'Config map');
      add('secrets', s.secret?.name, 'Secret');
    }
  }
  for (const c of [...(pod.spec?.initContainers ?? []), ...(pod.spec?.containers ?? [])]) {
    for (const e of c.envFrom ?? []) {
      add('configmaps', e.configMapRef?.name, 'Config map');
      add('secrets', e.secretRef?.name, 'Secret');
    }
    for (const e of c.env ?? []) {
      add('configmaps', e.valueFrom?.configMapKeyRef?.name, 'Config map');
      add('secrets', e.valueFrom?.secretKeyRef?.name, 'Secret');
    }
  }
  return [...found.values()];
}

/** The services that send to pods with these labels. */
export async function servicesOf(namespace: string, labels: Record<string, string>, signal?: AbortSignal): Promise<Ref[]> {
  const kind = kinds.get('services');
  if (!kind) return [];
  try {
    const list = await get<{ items: Service[] | null }>(`${pathOf(kind, namespace)}?limit=500`, signal);
    return (list.items ?? [])
      .filter((s) => Object.keys(s.spec?.selector ?? {}).length && Object.entries(s.spec?.selector ?? {}).every(([k, v]) => labels[k] === v))
      .map((s) => ({ kind, ns: namespace, name: s.metadata?.name ?? '', as: 'Service' }));
  } catch (e) {
    if (e instanceof ApiError) return [];
    throw e;
  }
}

interface Selector {
  matchLabels?: Record<string, string>;
  matchExpressions?: { key: string; operator: string; values?: string[] }[];
}

/** A label selector as the API's parameter has it. */
export function selectorText(s: Selector | undefined): string {
  const parts = Object.entries(s?.matchLabels ?? {}).map(([k, v]) => `${k}=${v}`);
  for (const { key, operator, values } of s?.matchExpressions ?? []) {
    if (operator === 'In') parts.push(`${key} in (${values?.join(',')})`);
    else if (operator === 'NotIn') parts.push(`${key} notin (${values?.join(',')})`);
    else parts.push(operator === 'Exists' ? key : `!${key}`);
  }
  return parts.join(',');
}
