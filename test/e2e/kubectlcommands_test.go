package e2e_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// step is one command of kubectl, and what it has to print or fail with.
type step struct {
	command string // words are separated by spaces; NS is the test's namespace, DIR its directory
	stdin   string
	want    string // a part of the output, or of the error if fails is set
	fails   bool
}

// walk runs steps one after another in a namespace.
func walk(t *testing.T, ns, dir string, steps []step) {
	t.Helper()
	for _, s := range steps {
		words := strings.Fields(strings.NewReplacer("NS", ns, "DIR", dir).Replace(s.command))
		out, err := kontikiWith(strings.NewReader(s.stdin), append([]string{"kubectl", "-n", ns}, words...)...)
		switch {
		case s.fails && (err == nil || !strings.Contains(err.Error(), s.want)):
			t.Errorf("kubectl %s: want the failure %q, got %v\n%s", s.command, s.want, err, out)
		case !s.fails && err != nil:
			t.Errorf("kubectl %s: %v", s.command, err)
		case !s.fails && !strings.Contains(out, s.want):
			t.Errorf("kubectl %s: %q is not in:\n%s", s.command, s.want, out)
		}
	}
}

// TestKubectlAboutAccess: roles, who may do what, tokens, certificates and quotas.
func TestKubectlAboutAccess(t *testing.T) {
	ns, dir := namespace(t), t.TempDir()
	reconciled := `apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader, namespace: ` + ns + `}
rules: [{apiGroups: [""], resources: [pods, pods/log], verbs: [get, list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reads, namespace: ` + ns + `}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}
subjects: [{kind: User, name: rita, apiGroup: rbac.authorization.k8s.io}]
`
	walk(t, ns, dir, []step{
		{command: "create serviceaccount robot", want: "serviceaccount/robot created"},
		{command: "create role writer --verb=create,update --resource=configmaps", want: "role.rbac.authorization.k8s.io/writer created"},
		{command: "create rolebinding writes --role=writer --serviceaccount=NS:robot", want: "rolebinding.rbac.authorization.k8s.io/writes created"},
		{command: "auth can-i create configmaps --as=system:serviceaccount:NS:robot", want: "yes"},
		{command: "auth can-i delete configmaps --as=system:serviceaccount:NS:robot", want: "exit status 1", fails: true},
		{command: "auth can-i --list --as=system:serviceaccount:NS:robot", want: "[create update]"},
		{command: "auth can-i get /livez --as=somebody --as-group=system:authenticated", want: "yes"},
		{command: "auth reconcile -f -", stdin: reconciled, want: "role.rbac.authorization.k8s.io/reader reconciled"},
		{command: "auth reconcile -f -", stdin: strings.Replace(reconciled, "verbs: [get, list]", "verbs: [watch]", 1), want: "reconciled"},
		{command: "auth can-i get pods --subresource=log --as=rita", want: "yes"}, // reconciling adds, and removes only if asked
		{command: "auth can-i watch pods --as=rita", want: "yes"},
		{command: "auth whoami", want: "system:masters"},
		{command: "auth whoami --as=rita", want: "rita"},
		{command: "create token robot --duration=20m --audience=vault", want: "."},
		{command: "create token nobody", want: `serviceaccounts "nobody" not found`, fails: true},
		{command: "create clusterrole NS --verb=get --resource=nodes", want: "created"},
		{command: "create clusterrolebinding NS --clusterrole=NS --user=rita", want: "created"},
		{command: "auth can-i get nodes --as=rita", want: "yes"},
		{command: "delete clusterrolebinding,clusterrole NS", want: "deleted"},
		{command: "create quota few --hard=count/configmaps=3,pods=2", want: "resourcequota/few created"},
		{command: "wait --for=jsonpath={.status.used.pods}=0 quota/few --timeout=20s", want: "condition met"},
		{command: "create configmap one", want: "created"},
		{command: "create configmap two", want: "created"},
		{command: "create configmap three", want: "exceeded quota: few, requested: count/configmaps=1, used: count/configmaps=3, limited: count/configmaps=3", fails: true}, // kube-root-ca.crt is the third
		{command: "describe quota few", want: "count/configmaps"},
		{command: "create priorityclass NS --value=7 --description=test", want: "created"},
		{command: "delete priorityclass NS", want: "deleted"},
	})
}

// TestKubectlApprovesCertificates: a request is approved or denied by hand.
func TestKubectlApprovesCertificates(t *testing.T) {
	ns := namespace(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "carl"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	request := base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
	manifest := func(name string) string {
		return fmt.Sprintf("apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\nmetadata: {name: %s}\n"+
			"spec: {signerName: example.com/of-the-test, usages: [digital signature, client auth], request: %s}\n", name, request)
	}
	walk(t, ns, "", []step{
		{command: "apply -f -", stdin: manifest(ns + "-yes"), want: "created"},
		{command: "apply -f -", stdin: manifest(ns + "-no"), want: "created"},
		{command: "get csr NS-yes", want: "Pending"},
		{command: "certificate approve NS-yes", want: "approved"},
		{command: "certificate deny NS-no", want: "denied"},
		{command: "get csr NS-yes", want: "Approved"},
		{command: "get csr NS-no", want: "Denied"},
		{command: "certificate approve NS-no", want: `certificate signing request "` + ns + `-no" is already Denied`, fails: true},
		{command: "delete csr NS-yes NS-no", want: "deleted"},
	})
}

// TestKubectlOnEveryKindOfObject: the commands that create, change and show objects.
func TestKubectlOnEveryKindOfObject(t *testing.T) {
	ns, dir := namespace(t), t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte("configMapGenerator: [{name: made, literals: [a=b]}]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	editor := filepath.Join(dir, "editor")
	if err := os.WriteFile(editor, []byte("#!/bin/sh\nsed -i 's/colour: red/colour: green/' \"$1\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("KUBE_EDITOR", editor)
	walk(t, ns, dir, []step{
		{command: "api-resources --namespaced=true -o name", want: "statefulsets.apps"},
		{command: "api-resources --categories=all", want: "horizontalpodautoscalers"},
		{command: "api-versions", want: "storage.k8s.io/v1"},
		{command: "cluster-info", want: "is running at"},
		{command: "version -o yaml", want: "serverVersion"},
		{command: "explain cronjob.spec.jobTemplate --recursive", want: "ttlSecondsAfterFinished"},
		{command: "explain ingresses --output=plaintext-openapiv2", want: "Ingress is a collection of rules"},
		{command: "options", want: "--as-group"},
		{command: "config view --minify", want: "current-context"},
		{command: "completion bash", want: "__start_kubectl"},
		{command: "get --raw /readyz?verbose", want: "readyz check passed"},

		{command: "create configmap settings --from-literal=colour=red", want: "created"},
		{command: "label configmap settings tier=front", want: "labeled"},
		{command: "label configmap settings tier=back", want: "already has a value (front), and --overwrite is false", fails: true},
		{command: "annotate configmap settings note=x", want: "annotated"},
		{command: "edit configmap settings", want: "edited"},
		{command: "get configmap settings -o jsonpath={.data.colour}", want: "green"},
		{command: "patch configmap settings --type=json -p [{\"op\":\"replace\",\"path\":\"/data/colour\",\"value\":\"blue\"}]", want: "patched"},
		{command: "get cm -l tier=front -o custom-columns=N:.metadata.name,C:.data.colour", want: "settings   blue"},
		{command: "get configmap settings -o go-template={{.data.colour}}", want: "blue"},
		{command: "replace -f - ", stdin: `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"settings"},"data":{"colour":"grey"}}`, want: "replaced"},
		{command: "apply --server-side --field-manager=other -f -", stdin: `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"settings"},"data":{"colour":"pink"}}`, want: "conflict with", fails: true},
		{command: "apply --server-side --force-conflicts -f -", stdin: `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"settings"},"data":{"colour":"pink"}}`, want: "serverside-applied"},
		{command: "kustomize DIR", want: "made-"},
		{command: "apply -k DIR", want: "created"},
		{command: "diff -k DIR", want: ""},
		{command: "create secret generic key --from-literal=a=b", want: "created"},
		{command: "create service clusterip web --tcp=80:8080", want: "created"},
		{command: "create ingress way --rule=a.example/*=web:80", want: "created"},
		{command: "create poddisruptionbudget spare --selector=app=web --min-available=1", want: "created"},
		{command: "create cronjob nightly --image=kontiki/tools:1 --schedule=0,30/2*** -- true", want: "expected exactly 5 fields, found 1", fails: true},
		{command: "create job once --image=kontiki/tools:1 -- true", want: "created"},

		{command: "create deployment web --image=kontiki/tools:1 --replicas=1 -- tools sleep", want: "created"},
		{command: "rollout status deployment/web --timeout=60s", want: "successfully rolled out"},
		{command: "expose deployment web --name=door --port=80", want: "exposed"},
		{command: "autoscale deployment web --min=1 --max=3 --cpu=80%", want: "autoscaled"},
		{command: "set env deployment/web A=b", want: "env updated"},
		{command: "set image deployment/web tools=kontiki/tools:1", want: ""},
		{command: "set resources deployment/web --requests=cpu=1m", want: "resource requirements updated"},
		{command: "set serviceaccount deployment/web default", want: "serviceaccount updated"},
		{command: "set selector service door app=web", want: "selector updated"},
		{command: "rollout pause deployment/web", want: "paused"},
		{command: "rollout resume deployment/web", want: "resumed"},
		{command: "rollout status deployment/web --timeout=60s", want: "successfully rolled out"},
		{command: "rollout history deployment/web", want: "REVISION"},
		{command: "get all", want: "deployment.apps/web"},
		{command: "describe deployment web", want: "ScalingReplicaSet"},
		{command: "events --for=deployment/web", want: "Scaled up"},
		{command: "wait --for=condition=Available deployment/web --timeout=60s", want: "condition met"},
		{command: "delete configmap,secret,service,ingress,pdb,job,hpa,deployment --all", want: "deleted"},
		{command: "get deployments", want: "No resources found"},
	})
}

// TestKubectlOnNodes: cordon, taint, drain.
func TestKubectlOnNodes(t *testing.T) {
	ns := namespace(t)
	t.Cleanup(func() {
		kubectl(t, "uncordon", "worker-2")
	})
	walk(t, ns, "", []step{
		{command: "create deployment idle --image=kontiki/tools:1 --replicas=2 -- tools sleep", want: "created"},
		{command: "rollout status deployment/idle --timeout=60s", want: "successfully rolled out"},
		{command: "taint node worker-2 spare=yes:PreferNoSchedule", want: "tainted"},
		{command: "taint node worker-2 spare:PreferNoSchedule-", want: "untainted"},
		{command: "drain worker-2 --ignore-daemonsets --delete-emptydir-data --force --pod-selector=app=idle --timeout=90s", want: "drained"},
		{command: "get node worker-2", want: "SchedulingDisabled"},
		{command: "rollout status deployment/idle --timeout=60s", want: "successfully rolled out"},
		{command: "get pods -o wide --field-selector=spec.nodeName=worker-2", want: "No resources found"},
		{command: "uncordon worker-2", want: "uncordoned"},
	})
}
