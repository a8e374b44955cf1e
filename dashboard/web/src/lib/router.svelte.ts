// The page's addresses, all below /ui/.
import type { Kind } from './kinds.svelte';

class Router {
  path = $state('');
  query = $state.raw(new URLSearchParams());

  begin(): void {
    addEventListener('popstate', () => this.read());
    document.addEventListener('click', (e) => {
      const link = (e.target as Element).closest?.('a[href^="/ui/"]');
      if (!link || e.defaultPrevented || e.button !== 0 || e.metaKey || e.ctrlKey || e.shiftKey || link.hasAttribute('download') || link.getAttribute('target')) return;
      if (/^\/ui\/(docs|session)\//.test(link.getAttribute('href') ?? '')) return; // not pages of this one
      e.preventDefault();
      this.go(link.getAttribute('href') ?? '/ui/');
    });
    this.read();
  }

  private read(): void {
    this.path = decodePath(location.pathname.replace(/^\/ui\/?/, ''));
    this.query = new URLSearchParams(location.search);
  }

  go(href: string): void {
    if (href === location.pathname + location.search) return;
    history.pushState(null, '', href);
    this.read();
    document.querySelector('main')?.scrollTo(0, 0);
  }

  /** Changes a parameter of the present page without a new entry in the history. */
  set(name: string, value: string): void {
    const query = new URLSearchParams(this.query);
    if (value) query.set(name, value);
    else query.delete(name);
    const search = query.toString();
    history.replaceState(null, '', location.pathname + (search ? '?' + search : ''));
    this.query = query;
  }
}

const decodePath = (path: string): string => path.replace(/\/+$/, '');

export const router = new Router();

/** The parts of the present path, decoded. */
export function parts(path: string): string[] {
  return path.split('/').map((p) => {
    try {
      return decodeURIComponent(p);
    } catch {
      return p;
    }
  });
}

type Named = Pick<Kind, 'group' | 'plural'>;
const kindPart = (k: Named): string => (k.group ? `${k.plural}.${k.group}` : k.plural);

/** The address of a kind's list. */
export function listHref(k: Named, query: Record<string, string> = {}): string {
  const search = new URLSearchParams(Object.entries(query).filter(([, v]) => v)).toString();
  return `/ui/list/${kindPart(k)}${search ? '?' + search : ''}`;
}

/** The address of an object. */
export function objectHref(k: Named, namespace: string | undefined, name: string, tab = ''): string {
  return `/ui/object/${kindPart(k)}/${namespace ? encodeURIComponent(namespace) : '-'}/${encodeURIComponent(name)}${tab ? '/' + tab : ''}`;
}
