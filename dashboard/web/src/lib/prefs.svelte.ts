// What the user set on this machine. Nothing about the cluster or the session is kept.
const key = 'kontiki-ui';

type Theme = 'system' | 'light' | 'dark';

class Prefs {
  theme = $state<Theme>('system');
  namespace = $state('');

  constructor() {
    try {
      const kept = JSON.parse(localStorage.getItem(key) ?? '{}') as { theme?: Theme };
      if (kept.theme === 'light' || kept.theme === 'dark') this.theme = kept.theme;
      this.namespace = sessionStorage.getItem(key + '-namespace') ?? '';
    } catch {
      // storage is switched off: nothing is kept
    }
    this.apply();
  }

  get dark(): boolean {
    return this.theme === 'dark' || (this.theme === 'system' && matchMedia('(prefers-color-scheme: dark)').matches);
  }

  toggleTheme(): void {
    this.theme = this.dark ? 'light' : 'dark';
    this.apply();
    this.keep(() => localStorage.setItem(key, JSON.stringify({ theme: this.theme })));
  }

  setNamespace(name: string): void {
    this.namespace = name;
    this.keep(() => sessionStorage.setItem(key + '-namespace', name));
  }

  private keep(write: () => void): void {
    try {
      write();
    } catch {
      // as above
    }
  }

  private apply(): void {
    if (this.theme === 'system') delete document.documentElement.dataset['theme'];
    else document.documentElement.dataset['theme'] = this.theme;
  }
}
export const prefs = new Prefs();
