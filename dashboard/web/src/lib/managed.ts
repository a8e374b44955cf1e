// Who set which fields, and when: the managed fields of an object.
import type { ManagedFieldsEntry } from '../gen/kubernetes';

export interface Change {
  manager: string;
  operation: string;
  subresource: string;
  time: string;
  fields: string[];
}

/** The paths of a FieldsV1 set (structured-merge-diff): "f:" fields, "k:" items of lists by keys, "v:" values of sets. */
export function fieldPaths(set: unknown, prefix = ''): string[] {
  if (typeof set !== 'object' || set === null) return [];
  const paths: string[] = [];
  for (const [key, inner] of Object.entries(set)) {
    if (key === '.') continue;
    let path = prefix;
    if (key.startsWith('f:')) path += (prefix ? '.' : '') + key.slice(2);
    else if (key.startsWith('k:') || key.startsWith('v:')) {
      try {
        const value = JSON.parse(key.slice(2)) as unknown;
        path += `[${typeof value === 'object' && value !== null ? Object.values(value).join(', ') : String(value)}]`;
      } catch {
        path += `[${key.slice(2)}]`;
      }
    } else path += `[${key.slice(2)}]`;
    const below = fieldPaths(inner, path);
    paths.push(...(below.length ? below : [path]));
  }
  return paths;
}

export function changes(entries: ManagedFieldsEntry[] | undefined): Change[] {
  return (entries ?? [])
    .map((e) => ({ manager: e.manager ?? '', operation: e.operation ?? '', subresource: e.subresource ?? '', time: e.time ?? '', fields: fieldPaths(e.fieldsV1) }))
    .sort((a, b) => (a.time < b.time ? 1 : -1));
}
