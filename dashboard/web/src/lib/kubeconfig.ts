// Reading kubeconfig files (https://kubernetes.io/docs/reference/config-api/kubeconfig.v1/) in the page.
import { load } from 'js-yaml';
import { fromBase64 } from './pem';

export interface Credential {
  token?: string;
  certificate?: string;
  key?: string;
}

export interface Choice {
  /** The context's name. */
  name: string;
  user: string;
  current: boolean;
  credential?: Credential;
  /** Why the user's credential cannot be used here. */
  problem?: string;
}

type Entry = Record<string, unknown>;

const isEntry = (v: unknown): v is Entry => typeof v === 'object' && v !== null && !Array.isArray(v);
const named = (list: unknown, name: unknown): Entry | undefined => (Array.isArray(list) ? list.filter(isEntry).find((e) => e['name'] === name) : undefined);
const stringOf = (v: unknown): string => (typeof v === 'string' ? v : '');
const decoded = (v: unknown): string => (typeof v === 'string' && v ? new TextDecoder().decode(fromBase64(v)) : '');

/** The contexts of a kubeconfig, the current one first. It throws an error that says what is wrong with the file. */
export function contexts(text: string): Choice[] {
  let config: unknown;
  try {
    config = load(text);
  } catch (e) {
    throw new Error(`this is not YAML: ${e instanceof Error ? e.message.split('\n')[0] : String(e)}`);
  }
  if (!isEntry(config) || !Array.isArray(config['contexts'])) throw new Error('this is not a kubeconfig: it has no list "contexts"');
  const found = config['contexts'].filter(isEntry).map((entry): Choice => {
    const context = isEntry(entry['context']) ? entry['context'] : {};
    const user = named(config['users'], context['user'])?.['user'];
    return { name: stringOf(entry['name']), user: stringOf(context['user']), current: entry['name'] === config['current-context'], ...credentialOf(isEntry(user) ? user : undefined) };
  });
  if (!found.length) throw new Error('this kubeconfig has no context');
  return found.sort((a, b) => Number(b.current) - Number(a.current));
}

function credentialOf(user: Entry | undefined): { credential?: Credential; problem?: string } {
  if (!user) return { problem: 'its user is not in the file' };
  if (stringOf(user['token'])) return { credential: { token: stringOf(user['token']) } };
  try {
    const certificate = decoded(user['client-certificate-data']);
    const key = decoded(user['client-key-data']);
    if (certificate && key) return { credential: { certificate, key } };
  } catch {
    return { problem: 'its certificate is not base64' };
  }
  if (user['client-certificate'] || user['client-key']) return { problem: 'its certificate is in another file; run `kontiki kubectl config view --flatten --raw` and use the result' };
  if (user['tokenFile']) return { problem: 'its token is in another file; paste the token instead' };
  if (user['exec'] || user['auth-provider']) return { problem: 'its credential comes from a program; run it and paste the token instead' };
  return { problem: 'it has neither a token nor a certificate' };
}
