// YAML as the masters print it: blocks of lines, indented by two spaces, keys in order.

/** Removes blocks by their path, such as "metadata.managedFields" or "status". */
export function without(yaml: string, ...paths: string[]): string {
  const drop = paths.map((p) => p.split('.'));
  const out: string[] = [];
  const parents: string[] = [];
  let skipping = -1;
  for (const line of yaml.split('\n')) {
    const match = /^( *)(- )?([^\s:#'"-][^:]*|'[^']*'|"[^"]*"):( |$)/.exec(line);
    const indent = /^ */.exec(line)?.[0].length ?? 0;
    if (skipping >= 0) {
      // A list may be indented as its key is.
      if (indent > skipping || (line.trim() !== '' && indent === skipping && line.trimStart().startsWith('- '))) continue;
      skipping = -1;
    }
    if (match?.[3] && !match[2]) {
      const depth = indent / 2;
      parents.length = Math.min(parents.length, depth);
      parents[depth] = match[3];
      if (drop.some((p) => p.length === depth + 1 && p.every((part, i) => parents[i] === part))) {
        skipping = indent;
        continue;
      }
    }
    out.push(line);
  }
  return out.join('\n');
}

/** What the masters fill in, which nobody writes into a manifest. */
export const bookkeeping = ['metadata.managedFields', 'metadata.uid', 'metadata.creationTimestamp', 'metadata.generation', 'metadata.selfLink', 'status'];

export interface Token {
  kind: 'key' | 'string' | 'literal' | 'comment' | 'mark' | 'plain';
  text: string;
}

/** The parts of a line, for colouring. */
export function tokens(line: string): Token[] {
  const out: Token[] = [];
  let rest = line;
  const lead = /^(\s*(?:- )*)/.exec(rest)?.[0] ?? '';
  if (lead) out.push({ kind: 'mark', text: lead });
  rest = rest.slice(lead.length);
  if (rest.startsWith('#') || rest === '---') return [...out, { kind: 'comment', text: rest }];
  const key = /^("[^"]*"|'[^']*'|[^\s:#'"{[][^:#]*?)(:)(?=\s|$)/.exec(rest);
  if (key?.[1]) {
    out.push({ kind: 'key', text: key[1] }, { kind: 'mark', text: ':' });
    rest = rest.slice(key[0].length);
  }
  if (!rest) return out;
  const value = rest.trim();
  const kind = /^(true|false|null|~|-?[0-9][0-9.eE+-]*)$/.test(value) ? 'literal' : /^["']/.test(value) ? 'string' : value.startsWith('#') ? 'comment' : key || lead.includes('-') ? 'string' : 'plain';
  return [...out, { kind, text: rest }];
}
