// The kinds that the cluster serves, custom ones too, from discovery.
import { aborted, text } from './api.svelte';

export interface Kind {
  group: string;
  version: string;
  /** The plural name in paths. */
  plural: string;
  kind: string;
  namespaced: boolean;
  verbs: string[];
  shortNames: string[];
  subresources: string[];
  /** Where the navigation shows it. */
  section: Section;
}

export const sections = ['Workloads', 'Network', 'Configuration', 'Storage', 'Cluster', 'Access', 'Custom'] as const;
export type Section = (typeof sections)[number];

/** The kinds that people look at most, in the order of the navigation. */
const main: Record<string, [Section, number]> = {};
for (const [section, names] of Object.entries({
  Workloads: ['pods', 'deployments.apps', 'statefulsets.apps', 'daemonsets.apps', 'jobs.batch', 'cronjobs.batch', 'replicasets.apps'],
  Network: ['services', 'ingresses.networking.k8s.io', 'networkpolicies.networking.k8s.io', 'endpointslices.discovery.k8s.io'],
  Configuration: ['configmaps', 'secrets', 'horizontalpodautoscalers.autoscaling', 'poddisruptionbudgets.policy', 'resourcequotas', 'limitranges'],
  Storage: ['persistentvolumeclaims', 'persistentvolumes', 'storageclasses.storage.k8s.io'],
  Cluster: ['nodes', 'namespaces', 'leases.coordination.k8s.io', 'priorityclasses.scheduling.k8s.io', 'customresourcedefinitions.apiextensions.k8s.io'],
  Access: ['serviceaccounts', 'roles.rbac.authorization.k8s.io', 'rolebindings.rbac.authorization.k8s.io', 'clusterroles.rbac.authorization.k8s.io', 'clusterrolebindings.rbac.authorization.k8s.io', 'certificatesigningrequests.certificates.k8s.io'],
})) {
  names.forEach((name, i) => (main[name] = [section as Section, i]));
}

const groupSections: Record<string, Section> = {
  '': 'Workloads', apps: 'Workloads', batch: 'Workloads', 'networking.k8s.io': 'Network', 'discovery.k8s.io': 'Network',
  autoscaling: 'Configuration', policy: 'Configuration', 'storage.k8s.io': 'Storage', 'rbac.authorization.k8s.io': 'Access', 'certificates.k8s.io': 'Access',
};

export const fullName = (k: { group: string; plural: string }): string => (k.group ? `${k.plural}.${k.group}` : k.plural);

/** The rank of a kind in its section of the navigation, if it is one of those that people look at most. */
export const rank = (k: Kind): number | undefined => main[fullName(k)]?.[1] ?? (k.section === 'Custom' ? 0 : undefined);

interface Discovered {
  items: { metadata: { name?: string }; versions: { version: string; freshness?: string; resources: DiscoveredResource[] }[] }[];
}
interface DiscoveredResource {
  resource: string;
  responseKind?: { kind: string };
  scope: string;
  verbs: string[];
  shortNames?: string[];
  subresources?: { subresource: string }[];
}

/** The kinds of discovery documents, one version of each. */
export function kindsOf(documents: Discovered[]): Kind[] {
  const found = new Map<string, Kind>();
  for (const { items } of documents) {
    for (const item of items) {
      const group = item.metadata.name ?? '';
      for (const { version, resources } of item.versions) {
        for (const r of resources) {
          const name = fullName({ group, plural: r.resource });
          if (found.has(name)) continue; // the group's preferred version comes first
          const custom = group.includes('.') && !/\.k8s\.io$/.test(group);
          found.set(name, {
            group, version, plural: r.resource, kind: r.responseKind?.kind ?? r.resource, namespaced: r.scope === 'Namespaced', verbs: r.verbs, shortNames: r.shortNames ?? [],
            subresources: (r.subresources ?? []).map((s) => s.subresource), section: main[name]?.[0] ?? (custom ? 'Custom' : (groupSections[group] ?? 'Cluster')),
          });
        }
      }
    }
  }
  return [...found.values()].sort((a, b) => a.kind.localeCompare(b.kind));
}

class Kinds {
  all = $state.raw<Kind[]>([]);
  private byName = new Map<string, Kind>();
  private stop: AbortController | undefined;

  /** Reads discovery now, and again every minute, until end is called. */
  begin(): void {
    this.stop?.abort();
    this.stop = new AbortController();
    const { signal } = this.stop;
    void (async () => {
      while (!signal.aborted) {
        await this.read(signal).catch((e: unknown) => (aborted(e) ? undefined : e));
        await new Promise((done) => setTimeout(done, this.all.length ? 60_000 : 2_000));
      }
    })();
  }

  end(): void {
    this.stop?.abort();
    this.all = [];
    this.byName.clear();
  }

  async read(signal?: AbortSignal): Promise<void> {
    const accept = 'application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList';
    const documents = await Promise.all(['/api', '/apis'].map(async (path) => JSON.parse(await text(path, accept, signal)) as Discovered));
    const all = kindsOf(documents);
    if (JSON.stringify(all) === JSON.stringify(this.all)) return;
    this.byName = new Map(all.map((k) => [fullName(k), k]));
    this.all = all;
  }

  /** A kind by "plural" or "plural.group". */
  get(name: string): Kind | undefined {
    void this.all;
    return this.byName.get(name);
  }

  /** The kind that an object or a reference to one is of. */
  of(apiVersion: string, kind: string): Kind | undefined {
    const group = apiVersion.includes('/') ? apiVersion.split('/')[0] : '';
    return this.all.find((k) => k.kind === kind && k.group === group);
  }
}
export const kinds = new Kinds();

/** The path of a kind's objects in the API. */
export function pathOf(k: { group: string; version: string; plural: string; namespaced: boolean }, namespace = '', name = '', subresource = ''): string {
  const parts = [k.group ? `/apis/${k.group}/${k.version}` : `/api/${k.version}`];
  if (k.namespaced && namespace) parts.push('namespaces', encodeURIComponent(namespace));
  parts.push(k.plural);
  if (name) parts.push(encodeURIComponent(name));
  if (subresource) parts.push(subresource);
  return parts.join('/');
}

const plurals: Record<string, string> = {
  HorizontalPodAutoscaler: 'Autoscalers', PodDisruptionBudget: 'Disruption budgets', PersistentVolumeClaim: 'Volume claims', PersistentVolume: 'Volumes', CertificateSigningRequest: 'Signing requests',
  CustomResourceDefinition: 'Definitions',
};

/** A kind's name as a heading: "Config maps". */
export function titleOf(k: Kind): string {
  const known = plurals[k.kind];
  if (known) return known;
  const words = k.kind.replace(/([a-z])([A-Z])/g, '$1 $2');
  const spaced = words.charAt(0) + words.slice(1).toLowerCase();
  if (k.plural === k.kind.toLowerCase()) return spaced; // it is a plural already
  if (/(s|x|ch)$/.test(spaced)) return spaced + 'es';
  return /[^aeiou]y$/.test(spaced) ? spaced.slice(0, -1) + 'ies' : spaced + 's';
}
