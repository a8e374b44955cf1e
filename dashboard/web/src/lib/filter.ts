// What is typed after "/": words that must all match.
//
//   web            in the name, the namespace or a cell (addresses, status, images), or the beginning of the UID
//   app=web        a label; app= for any value
//   node:a ns:b    in the column of that name
//   image:nginx    an image of a pod's containers
//   -web           not so
//   /web-[0-9]+/   a regular expression on the name

export interface Searchable {
  uid: string;
  ns: string;
  name: string;
  cells: readonly unknown[];
  labels: Readonly<Record<string, string>> | undefined;
}

export interface Filter {
  matches(row: Searchable): boolean;
  /** What is looked for among the images of pods' containers, lower-case; not part of matches. */
  image: string;
  /** What is wrong with the text, if anything. */
  problem: string;
}

type Test = (row: Searchable) => boolean;

function test(word: string, columns: readonly string[]): Test {
  const lower = word.toLowerCase();
  const expression = /^\/(.+)\/$/.exec(word);
  if (expression?.[1]) {
    const pattern = new RegExp(expression[1], 'i');
    return (row) => pattern.test(row.name);
  }
  const equals = /^([^=:]+)==?(.*)$/.exec(word);
  if (equals?.[1]) {
    const [, key, value] = equals;
    return (row) => {
      const label = row.labels?.[key];
      return label !== undefined && (!value || label === value);
    };
  }
  const column = /^([a-z][a-z -]*):(.+)$/i.exec(word);
  if (column?.[1] && column[2]) {
    const [title, value] = [column[1].toLowerCase(), column[2].toLowerCase()];
    if (title === 'ns' || title === 'namespace') return (row) => row.ns.toLowerCase().includes(value);
    if (title === 'name') return (row) => row.name.toLowerCase().includes(value);
    if (title === 'uid') return (row) => row.uid.startsWith(value);
    const at = columns.findIndex((c) => c.toLowerCase() === title || c.toLowerCase().startsWith(title));
    if (at >= 0) return (row) => String(row.cells[at]).toLowerCase().includes(value);
  }
  return (row) =>
    row.name.toLowerCase().includes(lower) || row.ns.toLowerCase().includes(lower) || (lower.length >= 4 && row.uid.startsWith(lower)) ||
    row.cells.some((cell) => typeof cell === 'string' && cell.toLowerCase().includes(lower));
}

/** Reads a filter. columns are the titles of the cells. */
export function parseFilter(text: string, columns: readonly string[]): Filter {
  const tests: Test[] = [];
  let image = '';
  let problem = '';
  for (const word of text.trim().split(/\s+/).filter(Boolean)) {
    const not = word.length > 1 && word.startsWith('-');
    const bare = not ? word.slice(1) : word;
    if (!not && /^image:./i.test(bare) && !columns.some((c) => c.toLowerCase().startsWith('image'))) {
      image = bare.slice(6).toLowerCase();
      continue;
    }
    try {
      const t = test(bare, columns);
      tests.push(not ? (row) => !t(row) : t);
    } catch (e) {
      problem = e instanceof Error ? e.message : String(e);
    }
  }
  return { matches: (row) => tests.every((t) => t(row)), image, problem };
}
