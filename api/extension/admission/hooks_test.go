package admission_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	reviewv1 "k8s.io/api/admission/v1"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/kontiki/kontiki/api/apiserver"
	"github.com/kontiki/kontiki/test/harness"
)

var ctx = context.Background()

// server is a webhook whose answers a test chooses by path. It notes what it was asked.
type server struct {
	t       *testing.T
	bundle  []byte
	url     string
	answers map[string]func(*reviewv1.AdmissionRequest, *reviewv1.AdmissionResponse)

	mu    sync.Mutex
	asked []asked
}

type asked struct {
	path    string
	request *reviewv1.AdmissionRequest
	by      string // the header Authorization
}

func newServer(t *testing.T) *server {
	t.Helper()
	s := &server{t: t, answers: map[string]func(*reviewv1.AdmissionRequest, *reviewv1.AdmissionResponse){}}
	over := make(chan struct{})
	listener := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		review := &reviewv1.AdmissionReview{}
		if err := json.Unmarshal(body, review); err != nil || review.Request == nil {
			http.Error(w, "no review", http.StatusBadRequest)
			return
		}
		s.mu.Lock()
		s.asked = append(s.asked, asked{r.URL.Path, review.Request, r.Header.Get("Authorization")})
		s.mu.Unlock()
		if r.URL.Path == "/hang" {
			select {
			case <-over:
			case <-r.Context().Done():
			}
			return
		}
		review.Response = &reviewv1.AdmissionResponse{UID: review.Request.UID, Allowed: true}
		if answer := s.answers[r.URL.Path]; answer != nil {
			answer(review.Request, review.Response)
		}
		review.Request = nil
		json.NewEncoder(w).Encode(review)
	}))
	t.Cleanup(listener.Close)
	t.Cleanup(func() { close(over) })
	s.url = listener.URL
	s.bundle = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: listener.Certificate().Raw})
	return s
}

// taken returns what was asked since the last call.
func (s *server) taken() []asked {
	s.mu.Lock()
	defer s.mu.Unlock()
	taken := s.asked
	s.asked = nil
	return taken
}

func (s *server) at(path string) admissionv1.WebhookClientConfig {
	url := s.url + path
	return admissionv1.WebhookClientConfig{URL: &url, CABundle: s.bundle}
}

func patching(patch string) func(*reviewv1.AdmissionRequest, *reviewv1.AdmissionResponse) {
	return func(_ *reviewv1.AdmissionRequest, r *reviewv1.AdmissionResponse) {
		r.Patch, r.PatchType = []byte(patch), new(reviewv1.PatchTypeJSONPatch)
	}
}

func rule(group, version, resource string, operations ...admissionv1.OperationType) []admissionv1.RuleWithOperations {
	return []admissionv1.RuleWithOperations{{Operations: operations, Rule: admissionv1.Rule{APIGroups: []string{group}, APIVersions: []string{version}, Resources: []string{resource}}}}
}

const (
	create  = admissionv1.Create
	update  = admissionv1.Update
	remove  = admissionv1.Delete
	connect = admissionv1.Connect
)

type fixture struct {
	*harness.Harness
	*server
	kubernetes.Interface
}

func start(t *testing.T) *fixture {
	t.Helper()
	h := harness.NewConfigured(t, func(c *apiserver.Config) { c.LocalWebhooks = true })
	h.Serve()
	return &fixture{h, newServer(t), h.Clientset()}
}

// validates creates a configuration of a validating webhook.
func (f *fixture) validates(name, path string, rules []admissionv1.RuleWithOperations, change func(*admissionv1.ValidatingWebhook)) *admissionv1.ValidatingWebhookConfiguration {
	f.t.Helper()
	hook := admissionv1.ValidatingWebhook{Name: name + ".example.com", ClientConfig: f.at(path), Rules: rules,
		SideEffects: new(admissionv1.SideEffectClassNone), AdmissionReviewVersions: []string{"v1"}}
	if change != nil {
		change(&hook)
	}
	made, err := f.AdmissionregistrationV1().ValidatingWebhookConfigurations().Create(ctx,
		&admissionv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: name}, Webhooks: []admissionv1.ValidatingWebhook{hook}}, metav1.CreateOptions{})
	if err != nil {
		f.t.Fatal(err)
	}
	return made
}

// mutates creates a configuration of a mutating webhook.
func (f *fixture) mutates(name, path string, rules []admissionv1.RuleWithOperations, change func(*admissionv1.MutatingWebhook)) {
	f.t.Helper()
	hook := admissionv1.MutatingWebhook{Name: name + ".example.com", ClientConfig: f.at(path), Rules: rules,
		SideEffects: new(admissionv1.SideEffectClassNone), AdmissionReviewVersions: []string{"v1"}}
	if change != nil {
		change(&hook)
	}
	if _, err := f.AdmissionregistrationV1().MutatingWebhookConfigurations().Create(ctx,
		&admissionv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: name}, Webhooks: []admissionv1.MutatingWebhook{hook}}, metav1.CreateOptions{}); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) configMap(name string, change func(*corev1.ConfigMap)) (*corev1.ConfigMap, error) {
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if change != nil {
		change(cm)
	}
	return f.CoreV1().ConfigMaps("default").Create(ctx, cm, metav1.CreateOptions{})
}

// TestWebhooksSeeEveryOperation: each is shown as upstream shows it, and a refusal has upstream's words.
func TestWebhooksSeeEveryOperation(t *testing.T) {
	f := start(t)
	f.validates("all", "/all", rule("*", "*", "*/*", create, update, remove, connect), nil)
	maps := f.CoreV1().ConfigMaps("default")
	check := func(what string, do func() error, operation, subresource, kind string, object, old bool) {
		t.Helper()
		f.taken()
		if err := do(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		for _, a := range f.taken() {
			r := a.request
			if string(r.Operation) == operation && r.SubResource == subresource {
				if r.Kind.Kind != kind || (len(r.Object.Raw) > 0) != object || (len(r.OldObject.Raw) > 0) != old || r.UserInfo.Username == "" || r.RequestKind.Kind != kind {
					t.Errorf("%s was shown as %v, object %s, old %s", what, r, r.Object.Raw, r.OldObject.Raw)
				}
				return
			}
		}
		t.Errorf("%s was not shown", what)
	}
	check("a creation", func() error {
		_, err := f.configMap("a", nil)
		return err
	}, "CREATE", "", "ConfigMap", true, false)
	check("an update", func() error {
		_, err := maps.Update(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Data: map[string]string{"k": "v"}}, metav1.UpdateOptions{})
		return err
	}, "UPDATE", "", "ConfigMap", true, true)
	check("a patch", func() error {
		_, err := maps.Patch(ctx, "a", types.MergePatchType, []byte(`{"data":{"k":"w"}}`), metav1.PatchOptions{})
		return err
	}, "UPDATE", "", "ConfigMap", true, true)
	check("a creation by apply", func() error {
		_, err := maps.Patch(ctx, "applied", types.ApplyPatchType, []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"applied"},"data":{"k":"w"}}`), metav1.PatchOptions{FieldManager: "m"})
		return err
	}, "CREATE", "", "ConfigMap", true, false)
	check("a deletion", func() error { return maps.Delete(ctx, "a", metav1.DeleteOptions{}) }, "DELETE", "", "ConfigMap", false, true)
	check("a collection's deletion", func() error {
		return maps.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{})
	}, "DELETE", "", "ConfigMap", false, true)
	if _, err := f.CoreV1().ReplicationControllers("default").Create(ctx, &corev1.ReplicationController{ObjectMeta: metav1.ObjectMeta{Name: "rc"},
		Spec: corev1.ReplicationControllerSpec{Selector: map[string]string{"a": "b"}, Template: &corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "x"}}}}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	check("a scale", func() error {
		_, err := f.CoreV1().ReplicationControllers("default").UpdateScale(ctx, "rc", &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Name: "rc", Namespace: "default"}, Spec: autoscalingv1.ScaleSpec{Replicas: 3}}, metav1.UpdateOptions{})
		return err
	}, "UPDATE", "scale", "Scale", true, true)
	check("a status", func() error {
		_, err := f.CoreV1().ReplicationControllers("default").Patch(ctx, "rc", types.MergePatchType, []byte(`{"status":{"replicas":1}}`), metav1.PatchOptions{}, "status")
		return err
	}, "UPDATE", "status", "ReplicationController", true, true)
	if _, err := f.CoreV1().ServiceAccounts("default").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "other"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := f.CoreV1().Pods("default").Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{ServiceAccountName: "other", Containers: []corev1.Container{{Name: "c", Image: "x"}}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	check("a binding", func() error {
		return f.CoreV1().Pods("default").Bind(ctx, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Target: corev1.ObjectReference{Kind: "Node", Name: "n"}}, metav1.CreateOptions{})
	}, "CREATE", "binding", "Binding", true, false)

	f.answers["/all"] = func(r *reviewv1.AdmissionRequest, response *reviewv1.AdmissionResponse) {
		response.Allowed, response.Result = false, &metav1.Status{Message: "not today", Reason: "Weather", Code: 418}
		response.Warnings = []string{"it rains"}
	}
	_, err := f.configMap("refused", nil)
	status, ok := err.(apierrors.APIStatus)
	if !ok || err.Error() != `admission webhook "all.example.com" denied the request: not today` || status.Status().Code != 418 || status.Status().Reason != "Weather" {
		t.Errorf("a refusal: %v", err)
	}
	f.taken()
	request := f.CoreV1().RESTClient().Post().Namespace("default").Resource("pods").Name("p").SubResource("exec").Param("command", "ls").Param("stdout", "true")
	if err := request.Do(ctx).Error(); err == nil || !strings.Contains(err.Error(), "not today") {
		t.Errorf("exec: %v", err)
	}
	if taken := f.taken(); len(taken) != 1 || taken[0].request.Operation != "CONNECT" || taken[0].request.Kind.Kind != "PodExecOptions" || taken[0].request.SubResource != "exec" || taken[0].request.Name != "p" {
		t.Errorf("exec was shown as %v", taken)
	}
}

// TestConfigurationsAreNotShown: neither they nor reviews of access, so that nobody can be shut out.
func TestConfigurationsAreNotShown(t *testing.T) {
	f := start(t)
	f.answers["/no"] = func(_ *reviewv1.AdmissionRequest, r *reviewv1.AdmissionResponse) { r.Allowed = false }
	made := f.validates("no", "/no", rule("*", "*", "*/*", admissionv1.OperationAll), nil)
	made.Labels = map[string]string{"a": "b"}
	if _, err := f.AdmissionregistrationV1().ValidatingWebhookConfigurations().Update(ctx, made, metav1.UpdateOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := f.configMap("a", nil); err == nil || err.Error() != `admission webhook "no.example.com" denied the request without explanation` {
		t.Errorf("a refusal without a text: %v", err)
	}
	if err := f.AdmissionregistrationV1().ValidatingWebhookConfigurations().Delete(ctx, "no", metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := f.configMap("a", nil); err != nil {
		t.Errorf("after the deletion: %v", err)
	}
	if taken := f.taken(); len(taken) != 1 {
		t.Errorf("%v", taken)
	}
}

// TestPatches: the patch is applied, defaults are set after it, what only the cluster chooses stays, and the first webhook is called again.
func TestPatches(t *testing.T) {
	f := start(t)
	pods := rule("", "v1", "pods", create)
	f.answers["/first"] = func(r *reviewv1.AdmissionRequest, response *reviewv1.AdmissionResponse) {
		pod := &corev1.Pod{}
		json.Unmarshal(r.Object.Raw, pod)
		patching(fmt.Sprintf(`[{"op":"add","path":"/metadata/annotations","value":{"seen":"%d"}}]`, len(pod.Spec.InitContainers)))(r, response)
	}
	f.answers["/second"] = patching(`[{"op":"add","path":"/spec/initContainers","value":[{"name":"i","image":"y"}]},{"op":"replace","path":"/metadata/uid","value":"mine"},{"op":"add","path":"/metadata/managedFields","value":[{"manager":"x"}]}]`)
	f.mutates("a", "/first", pods, func(w *admissionv1.MutatingWebhook) {
		w.ReinvocationPolicy = new(admissionv1.IfNeededReinvocationPolicy)
	})
	f.mutates("b", "/second", pods, nil)
	if _, err := f.CoreV1().ServiceAccounts("default").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	pod, err := f.CoreV1().Pods("default").Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "x"}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	init := pod.Spec.InitContainers
	if len(init) != 1 || init[0].TerminationMessagePath == "" || len(init[0].VolumeMounts) != 1 || len(pod.Spec.Volumes) != 1 || pod.UID == "mine" || pod.Annotations["seen"] != "1" || len(pod.ManagedFields) != 1 || pod.ManagedFields[0].FieldsV1 == nil {
		t.Errorf("%+v", pod)
	}
	var paths []string
	for _, a := range f.taken() {
		paths = append(paths, a.path)
	}
	if got := strings.Join(paths, " "); got != "/first /second /first" {
		t.Errorf("called: %s", got)
	}
	f.answers["/second"] = patching(`[{"op":"replace","path":"/metadata/name","value":"other"}]`)
	if _, err := f.CoreV1().Pods("default").Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "q"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "x"}}}}, metav1.CreateOptions{}); err == nil || !strings.Contains(err.Error(), "has changed the name") {
		t.Errorf("another name: %v", err)
	}
	if _, err := f.CoreV1().Pods("default").Get(ctx, "other", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Error(err)
	}
}

// TestMatching has one line for each way in which a webhook can be chosen.
func TestMatching(t *testing.T) {
	f := start(t)
	selects := func(key, value string) *metav1.LabelSelector {
		return &metav1.LabelSelector{MatchLabels: map[string]string{key: value}}
	}
	for _, c := range []struct {
		name   string
		rules  []admissionv1.RuleWithOperations
		change func(*admissionv1.ValidatingWebhook)
		called bool
	}{
		{"plain", rule("", "v1", "configmaps", create), nil, true},
		{"another-operation", rule("", "v1", "configmaps", update, remove), nil, false},
		{"another-resource", rule("", "v1", "secrets", create), nil, false},
		{"another-group", rule("apps", "v1", "configmaps", create), nil, false},
		{"everything", rule("*", "*", "*", admissionv1.OperationAll), nil, true},
		{"subresources-only", rule("*", "*", "*/status", admissionv1.OperationAll), nil, false},
		{"cluster-scope", rule("", "v1", "configmaps", create), func(w *admissionv1.ValidatingWebhook) { w.Rules[0].Scope = new(admissionv1.ClusterScope) }, false},
		{"namespaced-scope", rule("", "v1", "configmaps", create), func(w *admissionv1.ValidatingWebhook) { w.Rules[0].Scope = new(admissionv1.NamespacedScope) }, true},
		{"namespace", rule("", "v1", "configmaps", create), func(w *admissionv1.ValidatingWebhook) {
			w.NamespaceSelector = selects("kubernetes.io/metadata.name", "default")
		}, true},
		{"another-namespace", rule("", "v1", "configmaps", create), func(w *admissionv1.ValidatingWebhook) {
			w.NamespaceSelector = selects("kubernetes.io/metadata.name", "other")
		}, false},
		{"object", rule("", "v1", "configmaps", create), func(w *admissionv1.ValidatingWebhook) { w.ObjectSelector = selects("app", "x") }, true},
		{"another-object", rule("", "v1", "configmaps", create), func(w *admissionv1.ValidatingWebhook) { w.ObjectSelector = selects("app", "y") }, false},
		{"condition", rule("", "v1", "configmaps", create), func(w *admissionv1.ValidatingWebhook) {
			w.MatchConditions = []admissionv1.MatchCondition{{Name: "c", Expression: `object.metadata.labels.app == "x" && request.operation == "CREATE"`}}
		}, true},
		{"another-condition", rule("", "v1", "configmaps", create), func(w *admissionv1.ValidatingWebhook) {
			w.MatchConditions = []admissionv1.MatchCondition{{Name: "c", Expression: `true`}, {Name: "d", Expression: `has(object.data)`}}
		}, false},
		{"authorizer", rule("", "v1", "configmaps", create), func(w *admissionv1.ValidatingWebhook) {
			w.MatchConditions = []admissionv1.MatchCondition{{Name: "c", Expression: `authorizer.group("").resource("secrets").namespace("default").check("get").allowed()`}}
		}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			f.validates(c.name, "/"+c.name, c.rules, c.change)
			f.taken()
			if _, err := f.configMap(c.name, func(cm *corev1.ConfigMap) { cm.Labels = map[string]string{"app": "x"} }); err != nil {
				t.Fatal(err)
			}
			called := false
			for _, a := range f.taken() {
				called = called || a.path == "/"+c.name
			}
			if called != c.called {
				t.Errorf("called: %v", called)
			}
			if err := f.AdmissionregistrationV1().ValidatingWebhookConfigurations().Delete(ctx, c.name, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		})
	}
	f.validates("fails", "/x", rule("", "v1", "configmaps", create), func(w *admissionv1.ValidatingWebhook) {
		w.MatchConditions = []admissionv1.MatchCondition{{Name: "c", Expression: `object.data.missing == "x"`}}
	})
	if _, err := f.configMap("fails", nil); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "no such key: data") {
		t.Errorf("a condition that cannot be evaluated: %v", err)
	}
}

// TestEquivalentVersions: a rule about one version of a resource concerns the others, and the webhook gets its own.
func TestEquivalentVersions(t *testing.T) {
	f := start(t)
	f.answers["/v1"] = patching(`[{"op":"replace","path":"/spec/targetCPUUtilizationPercentage","value":33}]`)
	f.mutates("equivalent", "/v1", rule("autoscaling", "v1", "horizontalpodautoscalers", create), nil)
	f.validates("exact", "/exact", rule("autoscaling", "v1", "horizontalpodautoscalers", create), func(w *admissionv1.ValidatingWebhook) { w.MatchPolicy = new(admissionv1.Exact) })
	body := `{"apiVersion":"autoscaling/v2","kind":"HorizontalPodAutoscaler","metadata":{"name":"h"},"spec":{"maxReplicas":3,"scaleTargetRef":{"kind":"Deployment","name":"d","apiVersion":"apps/v1"},
		"metrics":[{"type":"Resource","resource":{"name":"cpu","target":{"type":"Utilization","averageUtilization":80}}}]}}`
	made, err := f.AutoscalingV2().RESTClient().Post().Namespace("default").Resource("horizontalpodautoscalers").SetHeader("Content-Type", "application/json").Body([]byte(body)).Do(ctx).Raw()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(made), `"averageUtilization":33`) {
		t.Errorf("%s", made)
	}
	taken := f.taken()
	if len(taken) != 1 || taken[0].request.Kind.Version != "v1" || taken[0].request.RequestKind.Version != "v2" || taken[0].request.Resource.Version != "v1" || taken[0].request.RequestResource.Version != "v2" {
		t.Errorf("%v", taken)
	}
}

// TestFailures: what an outage means for requests is the failure policy's choice, and with Ignore it costs the timeout once.
func TestFailures(t *testing.T) {
	f := start(t)
	second := func(w *admissionv1.ValidatingWebhook) { w.TimeoutSeconds = new(int32(1)) }
	f.validates("closed", "/hang", rule("", "v1", "secrets", create), second)
	_, err := f.CoreV1().Secrets("default").Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}}, metav1.CreateOptions{})
	if !apierrors.IsInternalError(err) || !strings.Contains(err.Error(), `failed calling webhook "closed.example.com": failed to call webhook: Post "`+f.url+`/hang?timeout=1s": context deadline exceeded`) {
		t.Errorf("failing closed: %v", err)
	}
	if n := len(f.taken()); n != 1 {
		t.Errorf("%d calls for one write", n)
	}
	f.validates("open", "/hang", rule("", "v1", "configmaps", create), func(w *admissionv1.ValidatingWebhook) {
		second(w)
		w.FailurePolicy = new(admissionv1.Ignore)
	})
	began := time.Now()
	const writes = 20
	for i := range writes {
		if _, err := f.configMap(fmt.Sprint("c", i), nil); err != nil {
			t.Fatal(err)
		}
	}
	// The pause is ten times the timeout: were each write to wait, there would be as many calls as writes.
	if n := len(f.taken()); n > 1+int(time.Since(began)/(10*time.Second)) {
		t.Errorf("%d calls for %d writes", n, writes)
	}
	for name, answer := range map[string]func(*reviewv1.AdmissionRequest, *reviewv1.AdmissionResponse){
		"uid":   func(_ *reviewv1.AdmissionRequest, r *reviewv1.AdmissionResponse) { r.UID = "other" },
		"patch": func(_ *reviewv1.AdmissionRequest, r *reviewv1.AdmissionResponse) { r.Patch = []byte("[]") },
	} {
		f.answers["/"+name] = answer
		f.validates(name, "/"+name, rule("", "v1", "services", create), nil)
		_, err := f.CoreV1().Services("default").Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 1}}}}, metav1.CreateOptions{})
		if !apierrors.IsInternalError(err) || !strings.Contains(err.Error(), "received invalid webhook response") {
			t.Errorf("%s: %v", name, err)
		}
		if err := f.AdmissionregistrationV1().ValidatingWebhookConfigurations().Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDryRun: webhooks are told of dry runs.
func TestDryRun(t *testing.T) {
	f := start(t)
	dry := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "dry"}}
	f.validates("none", "/none", rule("", "v1", "configmaps", create), func(w *admissionv1.ValidatingWebhook) {
		w.SideEffects = new(admissionv1.SideEffectClassNoneOnDryRun)
	})
	if _, err := f.CoreV1().ConfigMaps("default").Create(ctx, cm, dry); err != nil {
		t.Error(err)
	}
	if taken := f.taken(); len(taken) != 1 || !*taken[0].request.DryRun {
		t.Errorf("%v", taken)
	}
}
