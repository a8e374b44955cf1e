// The ports of pods and services that the page can open.
import type { Pod, Service } from '../gen/kubernetes';

export interface Port {
  name: string;
  port: number;
}

/** The TCP ports that an object names, each once. */
export function portsOf(kindName: string, object: Pod | Service | undefined): Port[] {
  const found = new Map<number, Port>();
  const add = (name: string | undefined, port: number, protocol: string | undefined): void => {
    if ((protocol ?? 'TCP') === 'TCP' && !found.has(port)) found.set(port, { name: name ?? '', port });
  };
  if (kindName === 'pods') {
    for (const c of [...((object as Pod | undefined)?.spec?.containers ?? []), ...((object as Pod | undefined)?.spec?.initContainers ?? []).filter((c) => c.restartPolicy === 'Always')]) {
      for (const p of c.ports ?? []) add(p.name, p.containerPort, p.protocol);
    }
  } else if (kindName === 'services') {
    for (const p of (object as Service | undefined)?.spec?.ports ?? []) add(p.name, p.port, p.protocol);
  }
  return [...found.values()];
}
