package admission_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/api/admission"
	"github.com/kontiki/kontiki/api/apiserver"
	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/test/harness"
)

// TestAdmissionSeesWhatIsAsked: subresources with kinds of their own, and connections, come to admission as what they are; parts of
// such requests do not come again.
func TestAdmissionSeesWhatIsAsked(t *testing.T) {
	var mu sync.Mutex
	var seen []string
	spy := objects.Step{Name: "AlwaysAdmit", Mutate: func(_ context.Context, a *objects.Attributes) error {
		mu.Lock()
		defer mu.Unlock()
		if a.User.GetName() == "system:harness" {
			return nil
		}
		seen = append(seen, strings.TrimSpace(fmt.Sprintf("%s %s/%s %s %T %T %T", a.Operation, a.Kind.Resource, a.Subresource, a.ObjectKind.Kind, a.Object, a.Old, a.Options())))
		if scale, ok := a.Object.(*autoscalingv1.Scale); ok && scale.Spec.Replicas == 7 {
			scale.Spec.Replicas = 3
		}
		return nil
	}}
	h := harness.NewConfigured(t, func(c *apiserver.Config) { c.Admission.Extra = []objects.Step{spy} })
	ctx := context.Background()
	set := h.Clientset()
	p, err := client.Create(ctx, h.Client, pod("p", nil))
	if err != nil {
		t.Fatal(err)
	}
	labels := map[string]string{"app": "x"}
	if _, err := client.Create(ctx, h.Client, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "d"}, Spec: appsv1.DeploymentSpec{
		Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: p.Spec},
	}}); err != nil {
		t.Fatal(err)
	}
	core := set.CoreV1()
	asked := func(want string, err error) {
		t.Helper()
		mu.Lock()
		defer mu.Unlock()
		if err != nil || len(seen) != 1 || seen[0] != want {
			t.Errorf("%v; seen %q, want %q", err, seen, want)
		}
		seen = nil
	}
	asked("CREATE pods/binding Binding *v1.Binding <nil> *v1.CreateOptions",
		core.Pods("default").Bind(ctx, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Target: corev1.ObjectReference{Kind: "Node", Name: "n"}}, metav1.CreateOptions{}))
	scale, err := set.AppsV1().Deployments("default").UpdateScale(ctx, "d", &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Name: "d"}, Spec: autoscalingv1.ScaleSpec{Replicas: 7}}, metav1.UpdateOptions{})
	asked("UPDATE deployments/scale Scale *v1.Scale *v1.Scale *v1.UpdateOptions", err)
	if err == nil && scale.Spec.Replicas != 3 {
		t.Errorf("the scale that admission changed: %d", scale.Spec.Replicas)
	}
	_, err = core.ServiceAccounts("default").CreateToken(ctx, "default", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	asked("CREATE serviceaccounts/token TokenRequest *v1.TokenRequest <nil> *v1.CreateOptions", err)
	patch := []byte(`{"status":{"message":"m"}}`)
	_, err = core.Pods("default").Patch(ctx, "p", types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	asked("UPDATE pods/status Pod *v1.Pod *v1.Pod *v1.UpdateOptions", err)
	asked("CREATE pods/eviction Eviction *v1.Eviction <nil> *v1.CreateOptions",
		core.Pods("default").EvictV1(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "p"}}))
	asked("DELETE pods/ Pod <nil> *v1.Pod *v1.DeleteOptions", core.Pods("default").Delete(ctx, "p", *metav1.NewDeleteOptions(0)))
	for path, want := range map[string]string{
		"/api/v1/namespaces/default/pods/p/exec?command=x&stdout=true": "CONNECT pods/exec PodExecOptions *v1.PodExecOptions <nil> <nil>",
		"/api/v1/namespaces/default/pods/p/attach?stdout=true":         "CONNECT pods/attach PodAttachOptions *v1.PodAttachOptions <nil> <nil>",
		"/api/v1/namespaces/default/pods/p/portforward?ports=80":       "CONNECT pods/portforward PodPortForwardOptions *v1.PodPortForwardOptions <nil> <nil>",
		"/api/v1/namespaces/default/pods/p:80/proxy/x":                 "CONNECT pods/proxy PodProxyOptions *v1.PodProxyOptions <nil> <nil>",
		"/api/v1/namespaces/default/services/s:80/proxy/x":             "CONNECT services/proxy ServiceProxyOptions *v1.ServiceProxyOptions <nil> <nil>",
		"/api/v1/nodes/n/proxy/metrics":                                "CONNECT nodes/proxy NodeProxyOptions *v1.NodeProxyOptions <nil> <nil>",
	} {
		h.AsAdmin().ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, path, nil))
		asked(want, nil)
	}
}

// TestStepsThatAreCalledOnce: when the state has changed in another place, a write is prepared again, but steps that call others are
// not called again; and a joined operation that does not hold refuses the write with the step's own error.
func TestStepsThatAreCalledOnce(t *testing.T) {
	var h *harness.Harness
	ctx := context.Background()
	mutated, validated, prepared := 0, 0, 0
	steps := []objects.Step{{
		Name: "MutatingAdmissionWebhook", Once: true, Handles: func(a *objects.Attributes) bool { return a.Kind.Resource == "configmaps" },
		Mutate: func(_ context.Context, a *objects.Attributes) error {
			mutated++
			changed := a.Object.DeepCopyObject().(*corev1.ConfigMap)
			changed.Data = map[string]string{"from": "the webhook"}
			a.Object = changed
			return nil
		},
		Validate: func(context.Context, *objects.Attributes) error { validated++; return nil },
	}, {
		Name: "ResourceQuota", Charge: func(_ context.Context, a *objects.Attributes) error {
			if a.Kind.Resource != "configmaps" {
				return nil
			}
			prepared++
			v, _ := a.View.Get("/quota/test")
			revision := uint64(0)
			if v != nil {
				revision = v.ModRevision
			}
			a.Join(kv.Op{Key: "/quota/test", Check: true, Cond: kv.AtOrAbsent(revision), Revision: revision}, nil)
			a.Join(kv.Op{Key: "/quota/count", Add: 1, Cond: kv.AtMost, Most: 2}, func(f *kv.Failure) error {
				return a.Forbid("there are %d already", f.Count)
			})
			if prepared == 1 || prepared == 3 { // another write comes first
				if _, err := h.Store.Propose(ctx, &kv.Command{ID: kv.CommandID{byte(prepared)}, Ops: []kv.Op{{Key: "/quota/test"}}}); err != nil {
					return err
				}
			}
			return nil
		},
	}}
	h = harness.NewConfigured(t, func(c *apiserver.Config) { c.Admission.Extra = steps })
	made, err := client.Create(ctx, h.Client, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", GenerateName: "c-"}})
	if err != nil || made.Data["from"] != "the webhook" || mutated != 1 || validated != 1 || prepared != 2 {
		t.Fatalf("%+v, %v: %d mutations, %d validations, prepared %d times", made, err, mutated, validated, prepared)
	}
	made.Labels = map[string]string{"a": "b"}
	if _, err := client.Update(ctx, h.Client, made); err != nil || mutated != 2 || validated != 2 || prepared != 4 {
		t.Fatalf("%v: %d mutations, %d validations, prepared %d times", err, mutated, validated, prepared)
	}
	_, err = client.Create(ctx, h.Client, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "c"}})
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), `configmaps "c" is forbidden: there are 2 already`) || prepared != 5 {
		t.Errorf("above the limit: %v, prepared %d times", err, prepared)
	}
}

// TestTheTable: steps run in upstream's order, and can be switched off and on by name.
func TestTheTable(t *testing.T) {
	extra := []objects.Step{{Name: "ResourceQuota"}, {Name: "LimitPodHardAntiAffinityTopology"}}
	steps, err := admission.Steps(admission.Config{Extra: extra, Disable: []string{"Priority"}})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range steps {
		names = append(names, s.Name)
	}
	if !slices.Equal(names[:5], []string{"DeletionProtection", "ResourceClaims", "PolicyParameters", "FollowedConfiguration", "WakeAnnotation"}) { // they have no name of upstream's
		t.Errorf("the first steps are %q", names[:5])
	}
	if names = names[5:]; names[0] != "NamespaceLifecycle" || names[1] != "LimitPodHardAntiAffinityTopology" || names[len(names)-1] != "ResourceQuota" || slices.Contains(names, "Priority") {
		t.Errorf("the order is %q", names)
	}
	for _, c := range []struct {
		enable, disable []string
		says            string
	}{
		{[]string{"NoSuch"}, nil, `admission plugin "NoSuch" is unknown`},
		{[]string{"ImagePolicyWebhook"}, nil, `admission plugin "ImagePolicyWebhook" is not built`},
		{[]string{"Priority"}, []string{"Priority"}, "overlapped"},
	} {
		if _, err := admission.Steps(admission.Config{Enable: c.enable, Disable: c.disable}); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("enable %q, disable %q: %v", c.enable, c.disable, err)
		}
	}
}
