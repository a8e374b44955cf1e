// What the user may do, so that the page offers nothing else. The masters decide; this only asks them beforehand.
import { post } from './api.svelte';

interface Rules {
  resourceRules: { verbs: string[]; apiGroups?: string[]; resources?: string[]; resourceNames?: string[] }[];
  nonResourceRules: { verbs: string[]; nonResourceURLs?: string[] }[];
  incomplete?: boolean;
}

const life = 60_000;

/** No namespace can have this name, so its rules are those that hold in the whole cluster. */
export const everywhere = '*';

export interface Question {
  verb: string;
  group: string;
  /** The plural name; "pods/exec" for a subresource. */
  resource: string;
  name?: string | undefined;
}

const has = (list: string[] | undefined, value: string): boolean => !!list?.some((v) => v === '*' || v === value);

function matches(resources: string[] | undefined, resource: string): boolean {
  if (has(resources, resource)) return true;
  const subresource = resource.split('/')[1];
  return !!subresource && has(resources, `*/${subresource}`);
}

/** Whether rules allow something. Rules that are not complete are given the benefit of the doubt. */
export function allows(rules: Rules, q: Question): boolean {
  if (rules.incomplete) return true;
  return rules.resourceRules.some(
    (r) => has(r.verbs, q.verb) && has(r.apiGroups, q.group) && matches(r.resources, q.resource) && (!r.resourceNames?.length || (q.name !== undefined && r.resourceNames.includes(q.name))),
  );
}

/** Whether rules allow a verb on a path that is not a resource's. */
export function allowsPath(rules: Rules, verb: string, path: string): boolean {
  return rules.nonResourceRules.some((r) => has(r.verbs, verb) && !!r.nonResourceURLs?.some((u) => u === '*' || u === path || (u.endsWith('*') && path.startsWith(u.slice(0, -1)))));
}

class Access {
  private known = new Map<string, { at: number; rules: Rules | undefined; asking: Promise<void> | undefined }>();
  private tick = $state(0);

  forget(): void {
    this.known.clear();
    this.tick++;
  }

  /** Asks about a namespace, or about the whole cluster, and waits for the answer. */
  async ask(namespace: string): Promise<void> {
    const entry = this.known.get(namespace);
    if (entry?.asking) return entry.asking;
    if (entry?.rules && Date.now() - entry.at < life) return;
    const fresh = { at: Date.now(), rules: entry?.rules, asking: undefined as Promise<void> | undefined };
    this.known.set(namespace, fresh);
    fresh.asking = post<{ status: Rules }>('/apis/authorization.k8s.io/v1/selfsubjectrulesreviews', { kind: 'SelfSubjectRulesReview', apiVersion: 'authorization.k8s.io/v1', spec: { namespace } })
      .then(({ status }) => {
        fresh.rules = status;
        fresh.at = Date.now();
      })
      .catch(() => {})
      .finally(() => {
        fresh.asking = undefined;
        this.tick++;
      });
    return fresh.asking;
  }

  private rules(namespace: string): Rules | undefined {
    void this.tick;
    const entry = this.known.get(namespace);
    if (!entry || (!entry.asking && Date.now() - entry.at >= life)) queueMicrotask(() => void this.ask(namespace));
    return entry?.rules;
  }

  /** Whether the user may do something, in a namespace or everywhere; false until the masters have answered. */
  may(q: Question, namespace = everywhere): boolean {
    const rules = this.rules(namespace || everywhere);
    return !!rules && allows(rules, q);
  }

  mayPath(verb: string, path: string): boolean {
    const rules = this.rules(everywhere);
    return !!rules && allowsPath(rules, verb, path);
  }

  /** Whether the masters have answered about a namespace. */
  knows(namespace = everywhere): boolean {
    return !!this.rules(namespace || everywhere);
  }
}
export const access = new Access();
