// What lies over the pages: messages, the palette, help, questions.
import { message } from './api.svelte';

export interface Toast {
  id: number;
  tone: 'ok' | 'bad';
  text: string;
}

class UI {
  toasts = $state<Toast[]>([]);
  palette = $state(false);
  /** What was typed for the palette before it was there. */
  ahead = '';
  help = $state(false);
  nav = $state(false);
  private last = 0;

  say(text: string, tone: 'ok' | 'bad' = 'ok'): void {
    const id = ++this.last;
    this.toasts.push({ id, tone, text });
    setTimeout(() => this.dismiss(id), tone === 'ok' ? 5000 : 15_000);
  }

  fail(e: unknown): void {
    this.say(message(e), 'bad');
  }

  dismiss(id: number): void {
    this.toasts = this.toasts.filter((t) => t.id !== id);
  }
}
export const ui = new UI();

/** The keys of the present page, for it to handle and for the help to list. */
export interface Key {
  key: string;
  what: string;
  run: (e: KeyboardEvent) => void;
}

class Keys {
  private ofPage = $state.raw<Key[]>([]);
  private ofPart = $state.raw<Key[]>([]);

  /** All keys of the page. Those of the part that is shown replace the page's. */
  get page(): Key[] {
    return [...this.ofPart, ...this.ofPage.filter((k) => !this.ofPart.some((p) => p.key === k.key))];
  }

  /** Sets the page's keys, and returns what removes them. */
  use(keys: Key[]): () => void {
    this.ofPage = keys;
    return () => {
      if (this.ofPage === keys) this.ofPage = [];
    };
  }

  /** Sets the keys of the part of the page that is shown, and returns what removes them. */
  usePart(keys: Key[]): () => void {
    this.ofPart = keys;
    return () => {
      if (this.ofPart === keys) this.ofPart = [];
    };
  }
}
export const keys = new Keys();
