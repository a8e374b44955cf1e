// Writes src/gen/kubernetes.ts: the TypeScript types of the kinds that the page knows, from the cluster's OpenAPI document.
// Usage: kontiki kubectl get --raw /openapi/v2 > FILE; node scripts/types.mjs FILE
import { readFileSync, writeFileSync } from 'node:fs';

const roots = {
  'io.k8s.api.core.v1.': ['Pod', 'Node', 'Event', 'Service', 'Secret', 'ConfigMap', 'PersistentVolumeClaim', 'PersistentVolume', 'Namespace'],
  'io.k8s.api.networking.v1.': ['NetworkPolicy'],
  'io.k8s.api.apps.v1.': ['Deployment', 'ReplicaSet', 'StatefulSet', 'DaemonSet', 'ControllerRevision'],
  'io.k8s.api.batch.v1.': ['Job', 'CronJob'],
  'io.k8s.api.discovery.v1.': ['EndpointSlice'],
  'io.k8s.api.authorization.v1.': ['SelfSubjectRulesReview'],
};
const { definitions } = JSON.parse(readFileSync(process.argv[2], 'utf8'));
const short = new Map();
const queue = Object.entries(roots).flatMap(([prefix, names]) => names.map((name) => prefix + name));
const done = new Map();
function nameOf(key) {
  if (!short.has(key)) {
    const base = key.split('.').at(-1);
    short.set(key, [...short.values()].includes(base) ? key.split('.').at(-3).replace(/^./, (c) => c.toUpperCase()) + base : base);
  }
  return short.get(key);
}
function typeOf(schema) {
  if (schema.$ref) {
    const key = schema.$ref.replace('#/definitions/', '');
    const target = definitions[key];
    if (!target.properties && target.type) return target.format === 'int-or-string' ? 'string | number' : typeOf(target);
    if (!target.properties) return 'unknown';
    queue.push(key);
    return nameOf(key);
  }
  if (schema.type === 'array') {
    const item = typeOf(schema.items);
    return item.includes(' ') ? `(${item})[]` : `${item}[]`;
  }
  if (schema.type === 'object') return schema.additionalProperties ? `Record<string, ${typeOf(schema.additionalProperties)}>` : 'Record<string, unknown>';
  if (schema.type === 'integer' || schema.type === 'number') return 'number';
  if (schema.type === 'boolean' || schema.type === 'string') return schema.type;
  return 'unknown';
}
while (queue.length) {
  const key = queue.shift();
  if (done.has(key)) continue;
  done.set(key, '');
  const schema = definitions[key];
  if (!schema) throw new Error(`the document has no ${key}`);
  const required = new Set(schema.required);
  const fields = Object.entries(schema.properties ?? {}).map(([name, property]) => {
    const quoted = /^[A-Za-z_]\w*$/.test(name) ? name : JSON.stringify(name);
    return `  ${quoted}${required.has(name) ? '' : '?'}: ${typeOf(property)};`;
  });
  done.set(key, `export interface ${nameOf(key)} {\n${fields.join('\n')}\n}\n`);
}
writeFileSync(new URL('../src/gen/kubernetes.ts', import.meta.url),
  '// Made by scripts/types.mjs from the OpenAPI document. Do not edit.\n\n' + [...done.entries()].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, text]) => text).join('\n'));
