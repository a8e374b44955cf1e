// Requests to the masters, as the signed-in user.

/** A Status of the API, or of what stands before it. */
export interface Status {
  message?: string;
  reason?: string;
  code?: number;
  details?: { name?: string; kind?: string; causes?: { field?: string; message?: string; reason?: string }[]; retryAfterSeconds?: number };
}

/** An answer that is an error. status is 0 if no master answered. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly body: Status,
  ) {
    super(body.message || (status === 0 ? 'no master answers' : `the answer was ${status}`));
    this.name = 'ApiError';
  }
  get reason(): string {
    return this.body.reason ?? '';
  }
  get causes(): { field?: string; message?: string }[] {
    return this.body.details?.causes ?? [];
  }
}

/** Whether masters answer, for the whole page. */
class Connection {
  /** When the first request failed of those since the last that was answered; 0 while masters answer. */
  lostAt = $state(0);
  /** When masters answered again after they had not; 0 if they always did. */
  backAt = $state(0);

  answered(): void {
    if (this.lostAt) {
      this.lostAt = 0;
      this.backAt = Date.now();
    }
  }
  failed(): void {
    if (!this.lostAt) this.lostAt = Date.now();
  }
}
export const connection = new Connection();

let secret = '';
let ended: () => void = () => {};

/** Sets the session's secret, and what to do when a request finds that the session has ended. */
export function useSecret(value: string, onEnd: () => void): void {
  secret = value;
  ended = onEnd;
}
export const sessionSecret = (): string => secret;

/** The header that proves that a request is this page's own. */
export const secretHeader = 'X-Kontiki-Session';

export interface Options {
  method?: string;
  body?: BodyInit;
  type?: string;
  accept?: string;
  signal?: AbortSignal | undefined;
}

async function send(url: string, o: Options): Promise<Response> {
  const headers: Record<string, string> = { [secretHeader]: secret || '-', Accept: o.accept ?? 'application/json' };
  if (o.type) headers['Content-Type'] = o.type;
  let response: Response;
  try {
    response = await fetch(url, { method: o.method ?? 'GET', headers, body: o.body ?? null, signal: o.signal ?? null, cache: 'no-store', redirect: 'error', credentials: 'same-origin' });
  } catch (e) {
    if (o.signal?.aborted) throw e;
    connection.failed();
    throw new ApiError(0, { message: 'No master answers. Trying again.' });
  }
  connection.answered();
  if (response.ok) return response;
  let body: Status = {};
  const text = await response.text();
  try {
    // Who asks for YAML gets errors as YAML.
    body = /yaml/.test(response.headers.get('Content-Type') ?? '') ? ((await import('js-yaml')).load(text) as Status) : (JSON.parse(text) as Status);
  } catch {
    body = { message: text.trim().slice(0, 500) };
  }
  throw new ApiError(response.status, body);
}

/** Sends a request to a path of the API. */
export async function request(path: string, o: Options = {}): Promise<Response> {
  try {
    return await send('/ui/api' + path, o);
  } catch (e) {
    if (e instanceof ApiError && e.status === 401) ended();
    throw e;
  }
}

/** Sends a request to a path of the dashboard itself. */
export async function own<T>(path: string, o: Options = {}): Promise<T> {
  return (await (await send('/ui' + path, o)).json()) as T;
}

export async function get<T>(path: string, signal?: AbortSignal): Promise<T> {
  return (await (await request(path, { signal })).json()) as T;
}

export async function text(path: string, accept: string, signal?: AbortSignal): Promise<string> {
  return (await request(path, { accept, signal })).text();
}

export async function post<T>(path: string, body: unknown, signal?: AbortSignal): Promise<T> {
  return (await (await request(path, { method: 'POST', type: 'application/json', body: JSON.stringify(body), signal })).json()) as T;
}

export type PatchType = 'merge' | 'strategic-merge' | 'json' | 'apply';

export async function patch<T>(path: string, body: unknown, type: PatchType = 'merge'): Promise<T> {
  const media = type === 'apply' ? 'application/apply-patch+yaml' : type === 'json' ? 'application/json-patch+json' : `application/${type}-patch+json`;
  const answer = await request(path, { method: 'PATCH', type: media, body: typeof body === 'string' ? body : JSON.stringify(body) });
  return (await answer.json()) as T;
}

export async function remove(path: string, options: Record<string, unknown> = {}): Promise<void> {
  await request(path, { method: 'DELETE', type: 'application/json', body: JSON.stringify({ kind: 'DeleteOptions', apiVersion: 'v1', ...options }) });
}

/** The lines of a response, as they arrive. A last line without its end is yielded too. */
export async function* lines(response: Response): AsyncGenerator<string[]> {
  if (!response.body) return;
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      const parts = (rest + value).split('\n');
      rest = parts.pop() ?? '';
      if (parts.length) yield parts;
    }
    if (rest) yield [rest];
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Waits, unless the signal ends it. */
export function pause(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason as Error);
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener('abort', () => (clearTimeout(timer), reject(signal.reason as Error)), { once: true });
  });
}

/** Whether an error only says that the page itself gave a request up. */
export const aborted = (e: unknown): boolean => e instanceof DOMException && e.name === 'AbortError';

/** What to show of an error. */
export const message = (e: unknown): string => (e instanceof Error ? e.message : String(e));
