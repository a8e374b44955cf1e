package apply

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/controller/deployment"
	"github.com/kontiki/kontiki/controller/garbage"
	"github.com/kontiki/kontiki/controller/replicaset"
	"github.com/kontiki/kontiki/test/harness"
)

// lab applies to an API in this process.
type lab struct {
	*harness.Harness
	t   *testing.T
	set *kubernetes.Clientset
}

func newLab(t *testing.T) *lab {
	h := harness.New(t)
	return &lab{h, t, h.Clientset()}
}

func (l *lab) apply(manifests string, change ...func(*Options)) (out string, err error) {
	l.t.Helper()
	var text bytes.Buffer
	o := Options{Files: []string{"-"}, In: strings.NewReader(manifests), Out: &text, Err: &text, Namespace: "default", FieldManager: "tests",
		Config: l.Config("admin", "system:masters"), Timeout: 20 * time.Second}
	for _, c := range change {
		c(&o)
	}
	err = Run(context.Background(), o)
	return text.String(), err
}

func (l *lab) must(manifests string, change ...func(*Options)) string {
	l.t.Helper()
	out, err := l.apply(manifests, change...)
	if err != nil {
		l.t.Fatalf("%v\n%s", err, out)
	}
	return out
}

func (l *lab) configMap(name string) *corev1.ConfigMap {
	l.t.Helper()
	m, err := l.set.CoreV1().ConfigMaps("default").Get(l.t.Context(), name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		l.t.Fatal(err)
	}
	return m
}

func says(t *testing.T, text string, words ...string) {
	t.Helper()
	for _, word := range words {
		if !strings.Contains(text, word) {
			t.Errorf("%q is not in:\n%s", word, text)
		}
	}
}

const settings = `
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, labels: {release: web}}
data: {colour: green}
`

// web is a deployment. Only a broken one has a deadline that a test can wait for: a slow machine must not make a good one miss it.
func web(image string) string {
	deadline := "600"
	if image == "broken" {
		deadline = "1"
	}
	return `
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {release: web}}
spec:
  replicas: 2
  progressDeadlineSeconds: ` + deadline + `
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers: [{name: c, image: "` + image + `"}]
`
}

func TestReleaseIsAppliedWhole(t *testing.T) {
	l := newLab(t)
	says(t, l.must(settings+web("v1")+"---\napiVersion: v1\nkind: Namespace\nmetadata: {name: extra}\n"),
		"namespace/extra created", "configmap/settings created", "deployment.apps/web created")
	says(t, l.must(settings+web("v2")), "configmap/settings unchanged", "deployment.apps/web configured")
	d, err := l.set.AppsV1().Deployments("default").Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil || d.Spec.Template.Spec.Containers[0].Image != "v2" || d.ManagedFields[0].Manager != "tests" {
		t.Errorf("%+v, %v", d, err)
	}
	// Invalid objects are rejected in any case.
	before := l.Store.View().Revision()
	out, err := l.apply(strings.Replace(settings, "green", "red", 1) + "---\napiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{port: 99999}]}\n")
	if err == nil {
		t.Fatal(out)
	}
	says(t, err.Error(), "service/web: ", "spec.ports[0].port", "Nothing was changed")
	if l.Store.View().Revision() != before || l.configMap("settings").Data["colour"] != "green" {
		t.Error("half of a release is there")
	}
}

func TestDiffAndDryRun(t *testing.T) {
	l := newLab(t)
	l.must(settings)
	before := l.Store.View().Revision()
	secret := "---\napiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {word: hush-hush}\n"
	out := l.must(strings.Replace(settings, "green", "red", 1)+secret, func(o *Options) { o.Diff, o.DryRun = true, true })
	says(t, out, "-  colour: green", "+  colour: red", "+kind: Secret", "configmap/settings configured (server dry run)", "secret/s created (server dry run)")
	if strings.Contains(out, "hush") || strings.Contains(out, "aHVza") || strings.Contains(out, "managedFields") {
		t.Errorf("the diff shows too much:\n%s", out)
	}
	if l.Store.View().Revision() != before {
		t.Error("a dry run changed something")
	}
	if out := l.must(settings, func(o *Options) { o.Diff = true }); strings.Contains(out, "@@") || !strings.Contains(out, "configmap/settings unchanged") {
		t.Errorf("a diff of nothing:\n%s", out)
	}
	l.must(web("v1")) // which has numbers
	if out := l.must(web("v1"), func(o *Options) { o.Diff, o.DryRun = true, true }); out != "deployment.apps/web unchanged (server dry run)\n" {
		t.Errorf("a diff of nothing:\n%s", out)
	}
}

func TestADiffOfSecretsShowsWhichDataDiffer(t *testing.T) {
	l := newLab(t)
	secret := func(word string) string {
		return "apiVersion: v1\nkind: Secret\nmetadata: {name: s, annotations: {kubectl.kubernetes.io/last-applied-configuration: 'hush'}}\nstringData: {same: hush, word: " + word + "}\n"
	}
	l.must(secret("hush1"))
	out := l.must(secret("hush2"), func(o *Options) { o.Diff, o.DryRun = true, true })
	says(t, out, "   same: '***'", "-  word: '*** (before)'", "+  word: '*** (after)'")
	if strings.Contains(out, "hush") || strings.Contains(out, "aHVza") {
		t.Errorf("the diff shows too much:\n%s", out)
	}
}

func TestPruneDeletesWhatIsNoLongerThere(t *testing.T) {
	l := newLab(t)
	other := strings.NewReplacer("settings", "other", "web", "another").Replace(settings)
	old := strings.Replace(settings, "settings", "old", 1)
	l.must(settings + "---" + old + "---" + other)
	prune := func(o *Options) { o.Prune, o.Selector = true, "release=web" }
	says(t, l.must(settings, prune, func(o *Options) { o.Diff, o.DryRun = true, true }), "configmap/old pruned (server dry run)", "-  colour: green")
	if l.configMap("old") == nil {
		t.Fatal("a dry run pruned")
	}
	out := l.must(settings, prune)
	says(t, out, "configmap/settings unchanged", "configmap/old pruned")
	if l.configMap("old") != nil || l.configMap("other") == nil || strings.Contains(out, "other") {
		t.Errorf("pruned wrongly:\n%s", out)
	}
}

// TestPruneLeavesWhatWasNotApplied: objects that controllers and people created in other ways, and those in other namespaces, do
// not belong to the release, whatever labels they have.
func TestPruneLeavesWhatWasNotApplied(t *testing.T) {
	l := newLab(t)
	for _, namespace := range []string{"default", "other"} {
		if namespace != "default" {
			if _, err := l.set.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		//lint:ignore SA1019 Endpoints are what controllers still write
		endpoints := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Name: "web", Labels: map[string]string{"release": "web"}}}
		if _, err := l.set.CoreV1().Endpoints(namespace).Create(t.Context(), endpoints, metav1.CreateOptions{FieldManager: "controller"}); err != nil {
			t.Fatal(err)
		}
		byKubectl := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "kubectl", Labels: map[string]string{"release": "web"},
			Annotations: map[string]string{"kubectl.kubernetes.io/last-applied-configuration": "{}"}}}
		if _, err := l.set.CoreV1().ConfigMaps(namespace).Create(t.Context(), byKubectl, metav1.CreateOptions{FieldManager: "kubectl-client-side-apply"}); err != nil {
			t.Fatal(err)
		}
		l.must(strings.Replace(settings, "settings", "old", 1), func(o *Options) { o.Namespace, o.FieldManager = namespace, "earlier" })
	}
	out := l.must(settings, func(o *Options) { o.Prune, o.Selector, o.Namespace = true, "release=web", "other" })
	if out != "configmap/settings created\nconfigmap/kubectl pruned\nconfigmap/old pruned\n" {
		t.Errorf("pruned wrongly:\n%s", out)
	}
	if l.configMap("old") == nil || l.configMap("kubectl") == nil {
		t.Error("pruned in a namespace that is not the manifests'")
	}
	in := strings.Replace(settings, "{name: settings", "{namespace: other, name: settings", 1)
	if out := l.must(in, func(o *Options) { o.Prune, o.Selector = true, "release=web" }); out != "configmap/settings unchanged\n" {
		t.Errorf("pruned wrongly:\n%s", out)
	}
}

func TestFieldsOfOthersAreTakenOverByForceOnly(t *testing.T) {
	l := newLab(t)
	l.must(settings, func(o *Options) { o.FieldManager = "somebody" })
	red := strings.Replace(settings, "green", "red", 1)
	for _, rollback := range []bool{false, true} { // which looks again after other conflicts
		if out, err := l.apply(red, func(o *Options) { o.Wait, o.Rollback = rollback, rollback }); err == nil || !strings.Contains(err.Error(), `conflict with "somebody"`) {
			t.Errorf("%v\n%s", err, out)
		}
	}
	l.must(red, func(o *Options) { o.Force = true })
	if got := l.configMap("settings").Data["colour"]; got != "red" {
		t.Errorf("the colour is %q", got)
	}
}

func (l *lab) controllers(options ...controllertest.Option) *controllertest.Kubelet {
	recorder := controllertest.NewRecorder()
	kubelet := controllertest.StartKubelet(l.t, l.Client, options...)
	controllertest.Run(l.t, l.Client, deployment.New(l.Client, recorder), replicaset.NewReplicaSets(l.Client, recorder), garbage.New(l.Client, recorder))
	return kubelet
}

func TestWaitAndRollback(t *testing.T) {
	l := newLab(t)
	broken := func(p *corev1.Pod) bool { return p.Spec.Containers[0].Image == "broken" }
	l.controllers(controllertest.Bad(broken))
	wait := func(o *Options) { o.Wait, o.Rollback = true, true }
	old := "---" + strings.Replace(settings, "settings", "old", 1)
	says(t, l.must(settings+old+web("v1"), wait), "deployment.apps/web: deployment \"web\" successfully rolled out")

	release := strings.Replace(settings, "green", "red", 1) + web("broken") + "---" + strings.Replace(settings, "settings", "made", 1)
	out, err := l.apply(release, wait, func(o *Options) { o.Prune, o.Selector = true, "release=web" })
	if err == nil || !strings.Contains(err.Error(), "was rolled back") || !strings.Contains(err.Error(), "exceeded its progress deadline") {
		t.Fatalf("%v\n%s", err, out)
	}
	says(t, out, "configmap/old pruned", "configmap/made created", "configmap/settings undone", "deployment.apps/web undone", "configmap/old undone", "configmap/made undone")
	if l.configMap("settings").Data["colour"] != "green" || l.configMap("old") == nil || l.configMap("made") != nil {
		t.Errorf("not undone: %v %v %v", l.configMap("settings"), l.configMap("old"), l.configMap("made"))
	}
	controllertest.Await(t, l.Client, "default", "web", "the old version again", func(d *appsv1.Deployment) bool {
		return d.Spec.Template.Spec.Containers[0].Image == "v1" && d.Status.UpdatedReplicas == 2 && d.Status.AvailableReplicas == 2
	})
	d, err := l.set.AppsV1().Deployments("default").Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range d.ManagedFields {
		if m.Manager == "tests" && m.Operation != metav1.ManagedFieldsOperationApply {
			t.Errorf("the undone object has fields of %s by %s", m.Manager, m.Operation)
		}
	}
	// Without --rollback-on-failure the release stays as it is.
	if out, err := l.apply(web("broken"), func(o *Options) { o.Wait = true }); err == nil || !strings.Contains(err.Error(), "was applied") {
		t.Errorf("%v\n%s", err, out)
	}
	// A first release that is rolled back leaves nothing behind.
	first := strings.NewReplacer("name: web", "name: first", "app: web", "app: first").Replace(web("broken"))
	if out, err := l.apply(first, wait); err == nil {
		t.Error(out)
	}
	controllertest.AwaitGone[*appsv1.Deployment](t, l.Client, "default", "first")
	if out, err := l.apply(strings.Replace(first, "progressDeadlineSeconds: 1", "progressDeadlineSeconds: 600", 1), func(o *Options) { o.Wait, o.Timeout = true, 300*time.Millisecond }); err == nil ||
		!strings.Contains(err.Error(), "not done within 300ms") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestManifestsAreReadAndChecked(t *testing.T) {
	l := newLab(t)
	dir := t.TempDir()
	for name, text := range map[string]string{"b.yaml": settings, "a.json": `{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"}}]}`, "notes.txt": "not a manifest"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	says(t, l.must("", func(o *Options) { o.Files = []string{dir} }), "configmap/x created", "configmap/settings created")
	before := l.Store.View().Revision()
	for name, x := range map[string]struct {
		manifests, want string
		change          func(*Options)
	}{
		"nothing":                      {"", "no objects", nil},
		"no kind":                      {"apiVersion: v1\nmetadata: {name: x}", "document 1: apiVersion and kind", nil},
		"no YAML":                      {settings + "---\n{", "document 2", nil},
		"unknown kind":                 {"apiVersion: v1\nkind: Gadget\nmetadata: {name: x}", `no matches for kind "Gadget"`, nil},
		"no name":                      {"apiVersion: v1\nkind: ConfigMap", "metadata.name", nil},
		"twice":                        {settings + "---" + settings, "configmap/settings is in the manifests more than once", nil},
		"unknown field":                {settings + "dato: {}", "dato", nil},
		"no such file":                 {"", "no such file", func(o *Options) { o.Files = []string{dir + "/none.yaml"} }},
		"a bad selector":               {settings, "--selector: found '='", func(o *Options) { o.Prune, o.Selector = true, "a=b=c" }},
		"a selector alone":             {settings, "--selector requires --prune", func(o *Options) { o.Selector = "a=b" }},
		"no selector":                  {settings, "--selector", func(o *Options) { o.Prune = true }},
		"rollback alone":               {settings, "--wait", func(o *Options) { o.Rollback = true }},
		"no files":                     {"", "--filename", func(o *Options) { o.Files = nil }},
		"a number":                     {"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: 12}", "metadata.name must be a string, but is 12: quote it", nil},
		"a namespace that is a number": {"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, namespace: 2024}", "metadata.namespace must be a string, but is 2024", nil},
		"a generated name":             {"apiVersion: v1\nkind: ConfigMap\nmetadata: {generateName: x-}", `metadata.generateName "x-"`, nil},
		"no metadata":                  {"apiVersion: v1\nkind: ConfigMap\nmetadata: x", "metadata must be a map", nil},
		"an old version":               {strings.Replace(settings, "name: settings", `name: settings, resourceVersion: "1"`, 1), "the object has been modified", nil},
		"an old version to roll back to": {strings.Replace(settings, "name: settings", `name: settings, resourceVersion: "1"`, 1), "the object has been modified",
			func(o *Options) { o.Wait, o.Rollback = true, true }},
		"no namespace": {"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, namespace: nowhere}", "nowhere", nil},
	} {
		change := x.change
		if change == nil {
			change = func(*Options) {}
		}
		if out, err := l.apply(x.manifests, change); err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
	if l.Store.View().Revision() != before {
		t.Error("something was changed")
	}
}
