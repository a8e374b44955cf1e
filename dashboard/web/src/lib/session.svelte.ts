// Who is signed in.
import { ApiError, own, secretHeader, useSecret } from './api.svelte';
import type { Credential } from './kubeconfig';
import { sign, toBase64 } from './pem';

interface Who {
  user: string;
  groups: string[];
  secret: string;
  idle: string;
  ends: string;
}

class Session {
  /** Unknown until the masters have been asked. */
  state = $state<'unknown' | 'out' | 'in'>('unknown');
  user = $state('');
  groups = $state<string[]>([]);
  /** Why the user must sign in again, if there was a session. */
  note = $state('');
  ends = $state(0);
  private idle = 0;
  private touched = Date.now();

  /** Finds out whether there is a session. */
  async begin(): Promise<void> {
    for (const event of ['keydown', 'pointerdown', 'wheel']) addEventListener(event, () => (this.touched = Date.now()), { passive: true });
    setInterval(() => void this.keep(), 20_000);
    await this.ask();
  }

  private async ask(): Promise<void> {
    try {
      this.enter(await own<Who>('/session'));
    } catch (e) {
      if (e instanceof ApiError && e.status === 401) this.leave(this.state === 'in' ? 'Your session has ended.' : '');
      else if (this.state === 'unknown') {
        setTimeout(() => void this.ask(), 1000);
      }
    }
  }

  /** Tells the masters that the user is there, and ends the session in the page when it has ended. */
  private async keep(): Promise<void> {
    if (this.state !== 'in') return;
    const now = Date.now();
    if (now >= Math.min(this.idle, this.ends)) {
      this.leave(now >= this.ends ? 'Sessions last eight hours.' : 'You were away for an hour.');
      await own('/session', { method: 'DELETE' }).catch(() => {});
      return;
    }
    if (now - this.touched < 60_000 && this.idle - now < 58.5 * 60_000) await this.ask();
  }

  private enter(who: Who): void {
    useSecret(who.secret, () => this.leave('Your session has ended.'));
    [this.user, this.groups, this.idle, this.ends] = [who.user, who.groups, Date.parse(who.idle), Date.parse(who.ends)];
    this.state = 'in';
    this.note = '';
  }

  private leave(note: string): void {
    useSecret('', () => {});
    this.state = 'out';
    this.note = note;
    this.user = '';
  }

  /** Signs in. Without a credential, the certificate is used that the browser presented. */
  async signIn(c: Credential): Promise<void> {
    let body: Record<string, unknown> = {};
    if (c.token) body = { token: c.token };
    if (c.certificate && c.key) {
      const { challenge } = await own<{ challenge: string }>('/session/challenge');
      const signature = await sign(c.key, `kontiki dashboard sign-in\n${location.origin}\n${challenge}`);
      body = { certificate: c.certificate, challenge, signature: toBase64(signature) };
    }
    this.enter(await own<Who>('/session', { method: 'POST', type: 'application/json', body: JSON.stringify(body) }));
  }

  /** Which further ways there are: whether the browser presented a certificate, and at which issuer users sign in, "" if at none. */
  ways(): Promise<{ certificate: boolean; issuer: string }> {
    return own('/session/challenge');
  }

  async signOut(): Promise<void> {
    await own('/session', { method: 'DELETE' });
    this.leave('');
  }
}
export const session = new Session();
export { secretHeader };
