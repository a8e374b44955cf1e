package static

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

const manifest = `
# a comment
apiVersion: v1
kind: Pod
metadata:
  name: web
  labels: {app: web}
spec:
  containers:
  - name: c
    image: example.com/web:1
`

func TestAFileIsDefaultedAndPlaced(t *testing.T) {
	pod, warning, err := decode("/pods/web.yaml", []byte(manifest), "node-1")
	if err != nil || warning != "" {
		t.Fatal(warning, err)
	}
	if pod.Name != "web-node-1" || pod.Namespace != "default" || pod.Spec.NodeName != "node-1" || pod.Labels["app"] != "web" {
		t.Errorf("it became %s/%s on %q", pod.Namespace, pod.Name, pod.Spec.NodeName)
	}
	if pod.Spec.RestartPolicy != corev1.RestartPolicyAlways || pod.Spec.DNSPolicy != corev1.DNSClusterFirst || *pod.Spec.TerminationGracePeriodSeconds != 30 {
		t.Errorf("it has no defaults: %+v", pod.Spec)
	}
	if len(pod.UID) != 32 || pod.Annotations[hashAnnotation] != string(pod.UID) || pod.Annotations[sourceAnnotation] != "file" {
		t.Errorf("uid %q, annotations %v", pod.UID, pod.Annotations)
	}
	all := corev1.Toleration{Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}
	if len(pod.Spec.Tolerations) != 1 || pod.Spec.Tolerations[0] != all {
		t.Errorf("tolerations: %v", pod.Spec.Tolerations)
	}
	// The UID follows what the file says, not how it says it.
	same, _, err := decode("/pods/web.yaml", []byte(`{"kind":"Pod","apiVersion":"v1","metadata":{"labels":{"app":"web"},"name":"web"},
		"spec":{"containers":[{"image":"example.com/web:1","name":"c"}]}}`), "node-1")
	if err != nil || same.UID != pod.UID {
		t.Errorf("as JSON: %v, uid %q, want %q", err, same.UID, pod.UID)
	}
	for what, other := range map[string][3]string{
		"another file":  {"/pods/web2.yaml", manifest, "node-1"},
		"another node":  {"/pods/web.yaml", manifest, "node-2"},
		"another image": {"/pods/web.yaml", strings.Replace(manifest, "web:1", "web:2", 1), "node-1"},
	} {
		p, _, err := decode(other[0], []byte(other[1]), other[2])
		if err != nil || p.UID == pod.UID {
			t.Errorf("%s: %v, uid %q is the same", what, err, p.UID)
		}
	}
}

func TestFilesThatDescribeNoStaticPod(t *testing.T) {
	with := func(old, new string) string {
		if !strings.Contains(manifest, old) {
			t.Fatalf("no %q", old)
		}
		return strings.Replace(manifest, old, new, 1)
	}
	for name, c := range map[string]struct{ file, want string }{
		"empty":                {"", "empty"},
		"comments":             {"# nothing\n", "empty"},
		"text":                 {"hello", "couldn't"},
		"broken":               {"{", "neither YAML nor JSON"},
		"two documents":        {manifest + "---" + manifest, "several documents"},
		"aliases":              {"a: &a " + strings.Repeat("x", 100_000) + "\nb: [" + strings.Repeat("*a, ", 400) + "]", "when its aliases are replaced"},
		"another kind":         {"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}", "describes a ConfigMap"},
		"a list":               {"apiVersion: v1\nkind: PodList\nitems: []", "describes a PodList"},
		"an unknown kind":      {"apiVersion: v9\nkind: Pod", "no kind \"Pod\""},
		"no name":              {with("name: web", "namespace: x"), "metadata.name"},
		"a UID":                {with("name: web", "name: web\n  uid: ../../etc"), "metadata.uid"},
		"an owner":             {with("name: web", "name: web\n  ownerReferences: [{apiVersion: v1, kind: Node, name: n, uid: u}]"), "metadata.ownerReferences"},
		"a finalizer":          {with("name: web", "name: web\n  finalizers: [a/b]"), "metadata.finalizers"},
		"a mirror":             {with("name: web", "name: web\n  annotations: {kubernetes.io/config.mirror: x}"), "config.mirror"},
		"a namespace's path":   {with("name: web", "name: web\n  namespace: ../x"), "metadata.namespace"},
		"a name's path":        {with("name: web", "name: ../web"), "metadata.name"},
		"invalid":              {with("image: example.com/web:1", "image: ''"), "image: Required value"},
		"a secret":             {with("spec:", "spec:\n  volumes: [{name: v, secret: {secretName: s}}]"), "may not reference secrets"},
		"a config map":         {with("image:", "envFrom: [{configMapRef: {name: c}}]\n    image:"), "may not reference configmaps"},
		"a service account":    {with("spec:", "spec:\n  serviceAccountName: admin"), "may not reference serviceaccounts"},
		"a claim":              {with("spec:", "spec:\n  volumes: [{name: v, persistentVolumeClaim: {claimName: c}}]"), "may not reference persistentvolumeclaims"},
		"a token":              {with("spec:", "spec:\n  volumes: [{name: v, projected: {sources: [{serviceAccountToken: {path: t}}]}}]"), "must not be specified when serviceAccountName is not set"},
		"a bundle":             {with("spec:", "spec:\n  volumes: [{name: v, projected: {sources: [{clusterTrustBundle: {name: b, path: t}}]}}]"), "may not reference clustertrustbundles"},
		"a resource claim":     {with("spec:", "spec:\n  resourceClaims: [{name: r, resourceClaimName: r}]"), "may not reference resourceclaims"},
		"ephemeral containers": {with("spec:", "spec:\n  ephemeralContainers: [{name: e, image: i}]"), "ephemeralContainers"},
	} {
		_, _, err := decode("/pods/a.yaml", []byte(c.file), "n")
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q in it", name, err, c.want)
		}
	}
	if _, warning, err := decode("/pods/a.yaml", []byte(with("image:", "imagge: x\n    image:")), "n"); err != nil || !strings.Contains(warning, `unknown field "spec.containers[0].imagge"`) {
		t.Errorf("an unknown field: %q, %v", warning, err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(manifest))
	f.Add([]byte("a: &a [*a]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if pod, _, err := decode("/f", data, "n"); err == nil && (pod.Spec.NodeName != "n" || len(pod.UID) != 32) {
			t.Errorf("%q became a pod on %q with uid %q", data, pod.Spec.NodeName, pod.UID)
		}
	})
}
