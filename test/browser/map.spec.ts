import { accessible, applyText, expect, kubectl, namespace, signIn, test, workload } from './help.js';

test('the map lights the pods of a service, a network policy and a volume claim', async ({ page }) => {
  const ns = namespace('browser-map');
  workload(ns, 'front', 2);
  workload(ns, 'back', 1);
  applyText(`
apiVersion: v1
kind: Service
metadata: {name: front, namespace: ${ns}}
spec: {selector: {app: front}, ports: [{port: 80}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: to-back, namespace: ${ns}}
spec:
  podSelector: {matchLabels: {app: back}}
  ingress: [{from: [{podSelector: {matchLabels: {app: front}}}]}]
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: notes, namespace: ${ns}}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 10Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: writer, namespace: ${ns}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: app, image: 'busybox:latest', imagePullPolicy: IfNotPresent, command: [sleep, '3600'], volumeMounts: [{name: data, mountPath: /data}]}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: notes}}]
`);
  for (const name of ['front', 'back']) kubectl('rollout', 'status', `deployment/${name}`, '-n', ns, '--timeout=60s');
  kubectl('wait', '--for=condition=Ready', 'pod/writer', '-n', ns, '--timeout=60s');
  const node = kubectl('get', 'pod/writer', '-n', ns, '-o', 'jsonpath={.spec.nodeName}');
  await signIn(page);
  await page.goto('/ui/map');
  const marks = page.locator('main li:not(.faded)');
  const choose = page.getByLabel('Light up');
  await choose.selectOption({ label: `${ns}/front` });
  await expect(marks).toHaveCount(2);
  await choose.selectOption({ label: `${ns}/to-back` });
  await expect(marks).toHaveCount(3); // those that it applies to, and those that its rules name
  await expect(page.locator('main li.peer')).toHaveCount(2);
  await expect(page.getByRole('main').getByRole('status')).toContainText('to-back applies to 1 pod, and lets in what a rule names');
  await choose.selectOption({ label: `${ns}/notes` });
  await expect(page.getByRole('main').getByRole('status')).toContainText('notes is used by 1 pod');
  await expect(marks).toHaveCount(2); // the pod, and the volume
  // The volume stands on the node that has it.
  const volume = page.getByRole('region', { name: node, exact: true }).getByRole('link', { name: `Volume claim notes in ${ns}: Bound` });
  await expect(volume).toBeVisible();
  await accessible(page, 'the map');
  await volume.click();
  await expect(page).toHaveURL(new RegExp(`/persistentvolumeclaims/${ns}/notes$`));
});
