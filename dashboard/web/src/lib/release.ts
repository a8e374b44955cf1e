// Releases: several manifests applied as one transaction (docs/transactions.md), with the difference first, and undone as a whole.
import { dump, loadAll } from 'js-yaml';
import { ApiError, get, post } from './api.svelte';
import { fullName, pathOf, type Kind } from './kinds.svelte';
import type { Obj } from './objects.svelte';

export interface Target {
  kind: Kind;
  ns: string;
  name: string;
  object: Obj;
}

/** One object of a release: before it, and as the masters say that it will be or is. */
export interface Change extends Target {
  before: Obj | undefined;
  after: Obj;
  created: boolean;
}

type Find = (apiVersion: string, kind: string) => Kind | undefined;

const isObject = (v: unknown): v is Record<string, unknown> => typeof v === 'object' && v !== null && !Array.isArray(v);

/** The objects of a text with one or more manifests, in YAML or JSON. Errors say which document is wrong, and how. */
export function parseManifests(text: string, find: Find, namespace: string): Target[] {
  let documents: unknown[];
  try {
    documents = loadAll(text);
  } catch (e) {
    throw new Error(`This is not YAML: ${e instanceof Error ? e.message : String(e)}`);
  }
  const objects = documents.flatMap((d) => (isObject(d) && d['kind'] === 'List' && Array.isArray(d['items']) ? (d['items'] as unknown[]) : [d])).filter((d) => d !== null && d !== undefined);
  if (!objects.length) throw new Error('There is no manifest.');
  const seen = new Set<string>();
  return objects.map((d, i): Target => {
    const at = `Document ${i + 1}`;
    if (!isObject(d)) throw new Error(`${at} is not an object.`);
    const { apiVersion, kind: kindName, metadata } = d;
    if (typeof apiVersion !== 'string' || typeof kindName !== 'string') throw new Error(`${at} needs apiVersion and kind.`);
    if (!isObject(metadata) || typeof metadata['name'] !== 'string' || !metadata['name']) throw new Error(`${at} (${kindName}) needs metadata.name.`);
    const kind = find(apiVersion, kindName);
    if (!kind) throw new Error(`${at}: the cluster has no kind ${kindName} in ${apiVersion}.`);
    const ns = kind.namespaced ? (typeof metadata['namespace'] === 'string' && metadata['namespace']) || namespace || 'default' : '';
    const object = { ...d, metadata: { ...metadata, ...(ns ? { namespace: ns } : {}) } } as Obj;
    const id = `${fullName(kind)}/${ns}/${metadata['name']}`;
    if (seen.has(id)) throw new Error(`${at}: ${kindName} ${metadata['name']} is there twice.`);
    seen.add(id);
    return { kind, ns, name: metadata['name'], object };
  });
}

interface Answer {
  results: { object?: Obj; created?: boolean }[];
}

const manager = 'kontiki-dashboard';

async function transact(operations: unknown[], dryRun: boolean): Promise<Answer> {
  return post<Answer>('/kontiki/v1/transactions', { fieldManager: manager, fieldValidation: 'Strict', dryRun, operations });
}

async function present(t: Target): Promise<Obj | undefined> {
  try {
    return await get<Obj>(pathOf(t.kind, t.ns, t.name));
  } catch (e) {
    if (e instanceof ApiError && e.status === 404) return undefined;
    throw e;
  }
}

/** Applies all targets or none. The result says what was there before. */
export async function apply(targets: Target[], force: boolean, dryRun: boolean): Promise<Change[]> {
  const before = await Promise.all(targets.map(present));
  const { results } = await transact(targets.map((t) => ({ apply: t.object, ...(force ? { force: true } : {}) })), dryRun);
  return targets.map((t, i) => ({ ...t, before: before[i], after: results[i]?.object ?? t.object, created: !!results[i]?.created }));
}

const ignored = ['managedFields', 'resourceVersion', 'uid', 'creationTimestamp', 'generation'];

/** What people write of an object: without what the masters fill in. The object itself stays as it is. */
function written(o: Obj): Obj {
  const { status: _, ...rest } = o;
  return { ...rest, metadata: Object.fromEntries(Object.entries(o.metadata).filter(([k]) => !ignored.includes(k))) as Obj['metadata'] };
}

const asYAML = (o: unknown): string => dump(o, { sortKeys: true, lineWidth: -1, noRefs: true });

/** Whether nothing of two states of an object differs but what the masters fill in. */
export function same(a: Obj | undefined, b: Obj | undefined): boolean {
  return a && b ? asYAML(written(a)) === asYAML(written(b)) : a === b;
}

/** An object as YAML, without what the masters fill in. Values of Secrets are replaced by marks. */
export function shown(o: Obj | undefined): string {
  if (!o) return '';
  const w = written(o);
  if (o.kind !== 'Secret') return asYAML(w);
  for (const field of ['data', 'stringData']) {
    if (isObject(w[field])) w[field] = Object.fromEntries(Object.entries(w[field]).map(([k, v]) => [k, digest(String(v))]));
  }
  // kubectl keeps in it what it applied, values too.
  const { 'kubectl.kubernetes.io/last-applied-configuration': _, ...annotations } = w.metadata.annotations ?? {};
  return asYAML({ ...w, metadata: { ...w.metadata, ...(w.metadata.annotations ? { annotations } : {}) } });
}

/** Another one in each page, so that a mark says nothing of a value to who guesses. */
const salt = crypto.getRandomValues(new Uint32Array(1))[0] ?? 0;

/** A short mark of a value that is not shown, so that a change can be seen. */
function digest(value: string): string {
  let h = 0x811c9dc5 ^ salt;
  for (let i = 0; i < value.length; i++) h = Math.imul(h ^ value.charCodeAt(i), 0x01000193);
  return `hidden, ${value.length} characters, ${(h >>> 0).toString(16).padStart(8, '0')}`;
}

/** Undoes a release by one transaction: what it created is deleted, what it changed is as before. It returns what could not be undone, and why. */
export async function undo(changes: Change[]): Promise<string[]> {
  const left: string[] = [];
  const operations: unknown[] = [];
  for (const c of changes) {
    const what = `${c.kind.kind} ${c.name}`;
    const now = await present(c);
    if (!now) {
      if (c.before) left.push(`${what}: somebody else deleted it`);
    } else if (now.metadata.uid !== c.after.metadata.uid) left.push(`${what}: somebody else made it anew`);
    else if (!c.before) {
      operations.push({ delete: { apiVersion: c.object.apiVersion, kind: c.object.kind, name: c.name, ...(c.ns ? { namespace: c.ns } : {}), options: { propagationPolicy: 'Background', preconditions: { uid: now.metadata.uid } } } });
    } else if (!same(c.before, c.after)) {
      const { resourceVersion: _, ...metadata } = c.before.metadata; // only its status has changed since
      operations.push({ update: { ...c.before, metadata }, keepManagedFields: true });
    }
  }
  // What was created last goes first, so that a namespace goes after what is in it.
  operations.reverse();
  if (operations.length) await transact(operations, false);
  return left;
}

export interface Progress {
  state: 'done' | 'waiting' | 'failed';
  text: string;
}

interface Rolling {
  metadata: { generation?: number };
  spec?: { replicas?: number; completions?: number; updateStrategy?: { type?: string } };
  status?: Record<string, unknown> & { conditions?: { type: string; status: string; reason?: string; message?: string }[] };
}

/** How far the roll-out of an object is, as `kubectl rollout status` sees it. Kinds that do not roll out are done at once. */
export function progressOf(kindName: string, o: Obj): Progress {
  const { metadata, spec, status } = o as unknown as Rolling;
  const n = (key: string): number => Number(status?.[key] ?? 0);
  const condition = (type: string): { status: string; reason?: string; message?: string } | undefined => status?.conditions?.find((c) => c.type === type);
  const waiting = (text: string): Progress => ({ state: 'waiting', text });
  const done: Progress = { state: 'done', text: 'done' };
  if (/^(deployments|statefulsets|daemonsets)\.apps$/.test(kindName) && n('observedGeneration') < (metadata.generation ?? 0)) return waiting('waits for its controller');
  switch (kindName) {
    case 'deployments.apps': {
      const want = spec?.replicas ?? 1;
      if (condition('Progressing')?.reason === 'ProgressDeadlineExceeded') return { state: 'failed', text: 'missed its progress deadline' };
      if (n('updatedReplicas') < want) return waiting(`${n('updatedReplicas')} of ${want} replicas are new`);
      if (n('replicas') > n('updatedReplicas')) return waiting(`${n('replicas') - n('updatedReplicas')} old replicas end`);
      return n('availableReplicas') < want ? waiting(`${n('availableReplicas')} of ${want} replicas are available`) : done;
    }
    case 'statefulsets.apps': {
      const want = spec?.replicas ?? 1;
      if (spec?.updateStrategy?.type === 'OnDelete') return done;
      if (n('readyReplicas') < want) return waiting(`${n('readyReplicas')} of ${want} replicas are ready`);
      return status?.['updateRevision'] !== status?.['currentRevision'] && n('updatedReplicas') < want ? waiting(`${n('updatedReplicas')} of ${want} replicas are new`) : done;
    }
    case 'daemonsets.apps': {
      const want = n('desiredNumberScheduled');
      if (spec?.updateStrategy?.type === 'OnDelete') return done;
      if (n('updatedNumberScheduled') < want) return waiting(`${n('updatedNumberScheduled')} of ${want} pods are new`);
      return n('numberAvailable') < want ? waiting(`${n('numberAvailable')} of ${want} pods are available`) : done;
    }
    case 'jobs.batch':
      if (condition('Failed')?.status === 'True') return { state: 'failed', text: condition('Failed')?.message ?? 'failed' };
      return condition('Complete')?.status === 'True' ? done : waiting(`${n('succeeded')} of ${spec?.completions ?? 1} pods have succeeded`);
    case 'pods': {
      const phase = String(status?.['phase'] ?? 'Pending');
      if (phase === 'Failed') return { state: 'failed', text: 'failed' };
      return phase === 'Succeeded' || condition('Ready')?.status === 'True' ? done : waiting(phase);
    }
  }
  return done;
}

const skeletons: Record<string, object> = {
  'deployments.apps': { spec: { replicas: 2, selector: { matchLabels: { app: 'web' } }, template: { metadata: { labels: { app: 'web' } }, spec: { containers: [{ name: 'app', image: 'registry.example/web:1', ports: [{ containerPort: 8080, name: 'http' }], resources: { requests: { cpu: '100m', memory: '64Mi' }, limits: { memory: '128Mi' } } }] } } } },
  services: { spec: { selector: { app: 'web' }, ports: [{ name: 'http', port: 80, targetPort: 'http' }] } },
  configmaps: { data: { key: 'value' } },
  secrets: { stringData: { key: 'value' } },
  pods: { spec: { containers: [{ name: 'app', image: 'registry.example/web:1' }] } },
  'jobs.batch': { spec: { template: { spec: { restartPolicy: 'Never', containers: [{ name: 'job', image: 'registry.example/job:1' }] } } } },
  'cronjobs.batch': { spec: { schedule: '0 3 * * *', jobTemplate: { spec: { template: { spec: { restartPolicy: 'Never', containers: [{ name: 'job', image: 'registry.example/job:1' }] } } } } } },
  persistentvolumeclaims: { spec: { accessModes: ['ReadWriteOnce'], resources: { requests: { storage: '1Gi' } } } },
  namespaces: {}, serviceaccounts: {},
};

/** A manifest to begin with. */
export function skeleton(kind: Kind, namespace: string): string {
  return dump({ apiVersion: kind.group ? `${kind.group}/${kind.version}` : kind.version, kind: kind.kind, metadata: { name: 'web', ...(kind.namespaced ? { namespace: namespace || 'default' } : {}) }, ...(skeletons[fullName(kind)] ?? { spec: {} }) }, { lineWidth: -1 });
}
