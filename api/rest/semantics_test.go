package rest_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	autoscalingapply "k8s.io/client-go/applyconfigurations/autoscaling/v1"
	"k8s.io/client-go/kubernetes"
	clientrest "k8s.io/client-go/rest"
	"k8s.io/kubernetes/pkg/capabilities"

	appsv1 "k8s.io/api/apps/v1"

	"github.com/kontiki/kontiki/api/apiserver"
	"github.com/kontiki/kontiki/test/harness"
)

func deployment(name string, replicas int32) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: appsv1.DeploymentSpec{
		Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: pod(name).Spec}}}
}

// TestDryRunChangesNothing: every verb responds as without dry run, and the store does not change.
func TestDryRunChangesNothing(t *testing.T) {
	h := harness.New(t)
	set := h.Clientset()
	ctx := context.Background()
	core, dry := set.CoreV1(), []string{metav1.DryRunAll}
	if _, err := core.Pods("default").Create(ctx, pod("a"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := set.AppsV1().Deployments("default").Create(ctx, deployment("d", 1), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	current, err := core.Pods("default").Get(ctx, "a", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	before := h.Store.View().Revision()
	for name, do := range map[string]func() error{
		"create": func() error {
			got, err := core.Pods("default").Create(ctx, pod("b"), metav1.CreateOptions{DryRun: dry})
			if err == nil && (got.UID == "" || got.Spec.ServiceAccountName == "") {
				return fmt.Errorf("not as it would be: %+v", got)
			}
			return err
		},
		"create service": func() error {
			got, err := core.Services("default").Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 1}}}}, metav1.CreateOptions{DryRun: dry})
			if err == nil && got.Spec.ClusterIP == "" {
				return fmt.Errorf("not as it would be: %+v", got)
			}
			return err
		},
		"update": func() error {
			changed := current.DeepCopy()
			changed.Labels["x"] = "y"
			got, err := core.Pods("default").Update(ctx, changed, metav1.UpdateOptions{DryRun: dry})
			if err == nil && got.Labels["x"] != "y" {
				return fmt.Errorf("not as it would be: %+v", got)
			}
			return err
		},
		"status": func() error {
			changed := current.DeepCopy()
			changed.Status.Phase = corev1.PodRunning
			_, err := core.Pods("default").UpdateStatus(ctx, changed, metav1.UpdateOptions{DryRun: dry})
			return err
		},
		"patch": func() error {
			_, err := core.Pods("default").Patch(ctx, "a", types.MergePatchType, []byte(`{"metadata":{"labels":{"x":"y"}}}`), metav1.PatchOptions{DryRun: dry})
			return err
		},
		"apply": func() error {
			force := true
			_, err := core.Pods("default").Patch(ctx, "a", types.ApplyPatchType, []byte(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","labels":{"x":"y"}}}`), metav1.PatchOptions{DryRun: dry, FieldManager: "m", Force: &force})
			return err
		},
		"apply of a new one": func() error {
			_, err := core.ConfigMaps("default").Patch(ctx, "n", types.ApplyPatchType, []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"n"}}`), metav1.PatchOptions{DryRun: dry, FieldManager: "m"})
			return err
		},
		"bind": func() error {
			return core.Pods("default").Bind(ctx, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Target: corev1.ObjectReference{Kind: "Node", Name: "n"}}, metav1.CreateOptions{DryRun: dry})
		},
		"evict": func() error {
			return core.Pods("default").EvictV1(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "a"}, DeleteOptions: &metav1.DeleteOptions{DryRun: dry}})
		},
		"scale": func() error {
			_, err := set.AppsV1().Deployments("default").Patch(ctx, "d", types.MergePatchType, []byte(`{"spec":{"replicas":9}}`), metav1.PatchOptions{DryRun: dry}, "scale")
			return err
		},
		"delete": func() error { return core.Pods("default").Delete(ctx, "a", metav1.DeleteOptions{DryRun: dry}) },
		"delete collection": func() error {
			return core.Pods("default").DeleteCollection(ctx, metav1.DeleteOptions{DryRun: dry}, metav1.ListOptions{})
		},
	} {
		if err := do(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if after := h.Store.View().Revision(); after != before {
			t.Fatalf("%s as a dry run changed the store", name)
		}
	}
	if _, err := core.Pods("default").Create(ctx, pod("a"), metav1.CreateOptions{DryRun: dry}); !apierrors.IsAlreadyExists(err) {
		t.Errorf("a dry run of what would fail: %v", err)
	}
}

// TestMetadataThatMayNotChange: each change is rejected with upstream's message, or ignored if upstream ignores it.
func TestMetadataThatMayNotChange(t *testing.T) {
	h := harness.New(t)
	config := h.Config("admin", "system:masters")
	set := h.Clientset()
	created, err := set.CoreV1().ConfigMaps("default").Create(context.Background(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	const path = "/api/v1/namespaces/default/configmaps/a"
	for _, c := range []struct {
		name, method, body string
		code               int
		says               string
	}{
		{"name by patch", "PATCH", `{"metadata":{"name":"b"}}`, 400, "the name of the object (b) does not match the name on the URL (a)"},
		{"namespace by patch", "PATCH", `{"metadata":{"namespace":"b"}}`, 400, "does not match the namespace"},
		{"uid by patch", "PATCH", `{"metadata":{"uid":"b"}}`, 422, `metadata.uid: Invalid value: \"b\": field is immutable`},
		{"deletion by patch", "PATCH", `{"metadata":{"deletionTimestamp":"2020-01-01T00:00:00Z"}}`, 422, "metadata.deletionTimestamp"},
		{"creation by patch", "PATCH", `{"metadata":{"creationTimestamp":"2020-01-01T00:00:00Z"}}`, 200, created.CreationTimestamp.UTC().Format(time.RFC3339)},
		{"a wrong type", "PATCH", `{"data":7}`, 422, "patch: Invalid value"},
		{"not an object", "PATCH", `[]`, 400, "error decoding patch"},
		{"a stale revision by patch", "PATCH", `{"metadata":{"resourceVersion":"1"}}`, 409, "the object has been modified"},
		{"a bad label", "PATCH", `{"metadata":{"labels":{"a b":"c"}}}`, 422, "metadata.labels: Invalid value"},
		{"a bad finalizer", "PATCH", `{"metadata":{"finalizers":["x"]}}`, 422, "metadata.finalizers[0]: Invalid value"},
		{"no name", "PUT", `{"apiVersion":"v1","kind":"ConfigMap"}`, 400, "the name of the object (a based on URL) was undeterminable: name must be provided"},
		{"another uid", "PUT", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","uid":"b"}}`, 409, "Precondition failed: UID in precondition: b, UID in object meta: " + string(created.UID)},
		{"another kind", "PUT", `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"a"}}`, 400, "Secret"},
	} {
		t.Run(c.name, func(t *testing.T) {
			contentType := "application/json"
			if c.method == "PATCH" {
				contentType = "application/merge-patch+json"
			}
			code, body := raw(t, config, c.method, path, contentType, []byte(c.body))
			if code != c.code || !strings.Contains(unescape(body), unescape(c.says)) {
				t.Errorf("%d %s, want %d with %q", code, body, c.code, c.says)
			}
		})
	}
	code, body := raw(t, config, "PATCH", path, "application/json-patch+json", []byte(`[{"op":"test","path":"/data/x","value":"1"}]`))
	if code != 422 || !strings.Contains(body, "the server rejected our request due to an error in our request") {
		t.Errorf("a test that fails: %d %s", code, body)
	}
}

func TestWatchesOfOneName(t *testing.T) {
	clients(t, func(t *testing.T, set *kubernetes.Clientset) {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		maps := set.CoreV1().ConfigMaps("default")
		w, err := maps.Watch(ctx, metav1.SingleObject(metav1.ObjectMeta{Name: "a"}))
		if err != nil {
			t.Fatal(err)
		}
		defer w.Stop()
		for _, name := range []string{"aa", "b", "a", "a-b"} {
			if _, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		if err := maps.Delete(ctx, "a", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		for _, want := range []watch.EventType{watch.Added, watch.Deleted} {
			event := <-w.ResultChan()
			if cm, ok := event.Object.(*corev1.ConfigMap); event.Type != want || !ok || cm.Name != "a" {
				t.Fatalf("%s %+v, want %s of a", event.Type, event.Object, want)
			}
		}
	})
}

// TestListsAtEarlierRevisions: every revision in the history can be listed exactly.
func TestListsAtEarlierRevisions(t *testing.T) {
	h := harness.New(t)
	ctx := context.Background()
	maps := h.Clientset().CoreV1().ConfigMaps("default")
	type moment struct {
		revision string
		names    []string
	}
	names := func(o metav1.ListOptions) (moment, error) {
		list, err := maps.List(ctx, o)
		if err != nil {
			return moment{}, err
		}
		m := moment{revision: list.ResourceVersion}
		for _, cm := range list.Items {
			m.names = append(m.names, cm.Name+"@"+cm.ResourceVersion)
		}
		return m, nil
	}
	var moments []moment
	for i := range 60 {
		name := fmt.Sprint("c", i*7%13)
		if _, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); apierrors.IsAlreadyExists(err) {
			if i%2 == 0 {
				err = maps.Delete(ctx, name, metav1.DeleteOptions{})
			} else {
				_, err = maps.Patch(ctx, name, types.MergePatchType, fmt.Appendf(nil, `{"data":{"i":"%d"}}`, i), metav1.PatchOptions{})
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		m, err := names(metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		moments = append(moments, m)
	}
	for _, want := range moments {
		got, err := names(metav1.ListOptions{ResourceVersion: want.revision, ResourceVersionMatch: metav1.ResourceVersionMatchExact})
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%v, %v; it was %v", got, err, want)
		}
		paged := moment{revision: want.revision}
		o := metav1.ListOptions{ResourceVersion: want.revision, ResourceVersionMatch: metav1.ResourceVersionMatchExact, Limit: 2}
		for {
			list, err := maps.List(ctx, o)
			if err != nil {
				t.Fatal(err)
			}
			for _, cm := range list.Items {
				paged.names = append(paged.names, cm.Name+"@"+cm.ResourceVersion)
			}
			if list.Continue == "" {
				break
			}
			if list.RemainingItemCount == nil || int(*list.RemainingItemCount) != len(want.names)-len(paged.names) {
				t.Fatalf("%v remain after %d of %d", list.RemainingItemCount, len(paged.names), len(want.names))
			}
			o = metav1.ListOptions{Limit: 2, Continue: list.Continue}
		}
		if !reflect.DeepEqual(paged, want) {
			t.Fatalf("in pages %v; it was %v", paged, want)
		}
	}
	// Without client-go, which waits and retries.
	code, body := raw(t, h.Config("admin", "system:masters"), "GET", "/api/v1/namespaces/default/configmaps?resourceVersion=99999&resourceVersionMatch=Exact", "", nil)
	if code != 504 || !strings.Contains(body, "ResourceVersionTooLarge") {
		t.Errorf("a revision of the future: %d %s", code, body)
	}
	forged := base64.RawURLEncoding.EncodeToString([]byte(`{"v":"kontiki/v1","rv":-1,"start":"/core/a"}`))
	code, body = raw(t, h.Config("admin", "system:masters"), "GET", "/api/v1/namespaces/default/configmaps?limit=1&continue="+forged, "", nil)
	if code != 400 || !strings.Contains(body, "continue key is not valid") {
		t.Errorf("a token that leads out of the list: %d %s", code, body)
	}
}

func TestImpersonation(t *testing.T) {
	h := harness.New(t)
	as := func(config *clientrest.Config, user string, groups ...string) error {
		config.Impersonate = clientrest.ImpersonationConfig{UserName: user, Groups: groups}
		set, err := kubernetes.NewForConfig(config)
		if err != nil {
			t.Fatal(err)
		}
		_, err = set.CoreV1().Pods("default").List(context.Background(), metav1.ListOptions{})
		return err
	}
	admin := func() *clientrest.Config { return h.Config("admin", "system:masters") }
	if err := as(admin(), "jane"); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), `User "jane" cannot list resource "pods"`) {
		t.Errorf("as somebody without rights: %v", err)
	}
	if err := as(admin(), "jane", "system:masters"); err != nil {
		t.Errorf("as a member of a group: %v", err)
	}
	if err := as(admin(), "system:serviceaccount:default:default"); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "system:serviceaccount:default:default") {
		t.Errorf("as a service account: %v", err)
	}
	if err := as(h.Config("joe", "devs"), "admin", "system:masters"); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), `User "joe" cannot impersonate-on:user-info:list resource "pods"`) {
		t.Errorf("by somebody who may not: %v", err)
	}
	if code, body := raw(t, admin(), "GET", "/api/v1/pods", "", nil, "Impersonate-Group", "system:masters"); code != 400 {
		t.Errorf("a group without a user: %d %s", code, body)
	}
}

// TestScaleOwnsReplicasOfTheObject: the managed fields of a scale are those of the object that it scales.
func TestScaleOwnsReplicasOfTheObject(t *testing.T) {
	set := harness.New(t).Clientset()
	ctx := context.Background()
	deployments := set.AppsV1().Deployments("default")
	if _, err := deployments.Create(ctx, deployment("d", 1), metav1.CreateOptions{FieldManager: "creator"}); err != nil {
		t.Fatal(err)
	}
	wish := autoscalingapply.Scale().WithName("d").WithSpec(autoscalingapply.ScaleSpec().WithReplicas(4))
	if _, err := deployments.ApplyScale(ctx, "d", wish, metav1.ApplyOptions{FieldManager: "scaler"}); !apierrors.IsConflict(err) || !strings.Contains(err.Error(), `conflict with "creator" using apps/v1: .spec.replicas`) {
		t.Fatalf("a conflict: %v", err)
	}
	scale, err := deployments.ApplyScale(ctx, "d", wish, metav1.ApplyOptions{FieldManager: "scaler", Force: true})
	if err != nil || scale.Spec.Replicas != 4 {
		t.Fatal(scale, err)
	}
	d, err := deployments.Get(ctx, "d", metav1.GetOptions{})
	if err != nil || d.Generation != 2 {
		t.Fatal(d, err)
	}
	found := false
	for _, entry := range d.ManagedFields {
		if entry.Manager == "scaler" {
			found = true
			if entry.Operation != "Apply" || entry.Subresource != "scale" || entry.APIVersion != "apps/v1" || entry.FieldsV1.GetRawString() != `{"f:spec":{"f:replicas":{}}}` {
				t.Errorf("%+v", entry)
			}
		} else if strings.Contains(entry.FieldsV1.GetRawString(), "f:replicas") {
			t.Errorf("%s still owns the replicas", entry.Manager)
		}
	}
	if !found {
		t.Errorf("nobody owns the scale: %+v", d.ManagedFields)
	}
}

// TestManagedFieldsAreTheWritersAlone: fields set by admission and by the cluster's defaults have no owner; a binding leaves no
// entry; a status belongs to its writer.
func TestManagedFieldsAreTheWritersAlone(t *testing.T) {
	set := harness.New(t).Clientset()
	ctx := context.Background()
	pods := set.CoreV1().Pods("default")
	created, err := pods.Create(ctx, pod("a"), metav1.CreateOptions{FieldManager: "creator"})
	if err != nil {
		t.Fatal(err)
	}
	const spec = `"f:spec":{"f:containers":{"k:{\"name\":\"c\"}":{".":{},"f:image":{},"f:imagePullPolicy":{},"f:name":{},"f:resources":{},"f:terminationMessagePath":{},"f:terminationMessagePolicy":{}}},"f:dnsPolicy":{},"f:enableServiceLinks":{},"f:restartPolicy":{},"f:schedulerName":{},"f:securityContext":{},"f:terminationGracePeriodSeconds":{}}`
	want := `{"f:metadata":{"f:labels":{".":{},"f:app":{}}},` + spec + `}`
	if len(created.ManagedFields) != 1 || created.ManagedFields[0].FieldsV1.GetRawString() != want {
		t.Errorf("created: %s\nwant %s", created.ManagedFields[0].FieldsV1.GetRawString(), want)
	}
	if err := pods.Bind(ctx, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Target: corev1.ObjectReference{Kind: "Node", Name: "n"}}, metav1.CreateOptions{FieldManager: "scheduler"}); err != nil {
		t.Fatal(err)
	}
	bound, err := pods.Get(ctx, "a", metav1.GetOptions{})
	if err != nil || len(bound.ManagedFields) != 1 || bound.Spec.NodeName != "n" {
		t.Fatalf("after a binding: %+v, %v", bound.ManagedFields, err)
	}
	bound.Status.Phase = corev1.PodRunning
	running, err := pods.UpdateStatus(ctx, bound, metav1.UpdateOptions{FieldManager: "agent"})
	if err != nil || len(running.ManagedFields) != 2 {
		t.Fatalf("%+v, %v", running.ManagedFields, err)
	}
	e := running.ManagedFields[0]
	if e.Manager != "agent" {
		e = running.ManagedFields[1]
	}
	if e.Manager != "agent" || e.Subresource != "status" || e.FieldsV1.GetRawString() != `{"f:status":{"f:phase":{}}}` {
		t.Errorf("status: %+v", e)
	}
}

func TestEventsOfTheNewerVersion(t *testing.T) {
	clients(t, func(t *testing.T, set *kubernetes.Clientset) {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		w, err := set.CoreV1().Events("default").Watch(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=p"})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Stop()
		created, err := set.EventsV1().Events("default").Create(ctx, &eventsv1.Event{ObjectMeta: metav1.ObjectMeta{Name: "e"}, Note: "n", Reason: "R", Type: "Normal",
			EventTime: metav1.NowMicro(), ReportingController: "c.io/c", ReportingInstance: "i", Action: "A", Regarding: corev1.ObjectReference{Kind: "Pod", Name: "p", Namespace: "default"}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if event := <-w.ResultChan(); event.Type != watch.Added || event.Object.(*corev1.Event).Message != "n" {
			t.Fatalf("%+v", event)
		}
		list, err := set.EventsV1().Events("").List(ctx, metav1.ListOptions{FieldSelector: "regarding.name=p"})
		if err != nil || len(list.Items) != 1 || list.Items[0].Note != "n" || list.Items[0].UID != created.UID {
			t.Fatalf("%+v, %v", list, err)
		}
	})
}

func TestWarnings(t *testing.T) {
	h := harness.New(t)
	config := h.Config("admin", "system:masters")
	for _, c := range []struct{ path, body, want string }{
		{"/api/v1/namespaces/default/pods", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a.b"},"spec":{"containers":[{"name":"c","image":"i"}]}}`, "metadata.name: this is used in the Pod's hostname"},
		{"/api/v1/namespaces/default/configmaps", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"dataa":{}}`, `unknown field \"dataa\"`},
		{"/api/v1/namespaces/default/pods", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"e"},"spec":{"containers":[{"name":"c","image":"i","env":[{"name":"A","value":"1"},{"name":"A","value":"2"}]}]}}`, "spec.containers[0].env[1]: hides previous definition"},
		{"/api/v1/namespaces/default/secrets", `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"a"},"type":"kubernetes.io/tls","data":{"tls.crt":"eA==","tls.key":"eA=="}}`, "tls: failed to find any PEM data"},
		{"/api/v1/namespaces/default/endpoints", `{"apiVersion":"v1","kind":"Endpoints","metadata":{"name":"a"}}`, "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"},
		{"/api/v1/namespaces/default/pods", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"aa","annotations":{"container.apparmor.security.beta.kubernetes.io/c":"unconfined"}},"spec":{"containers":[{"name":"c","image":"i"}]}}`, `metadata.annotations[container.apparmor.security.beta.kubernetes.io/c]: deprecated since v1.30; use the \"appArmorProfile\" field instead`},
	} {
		recorder := httptest.NewRecorder()
		client, err := clientrest.HTTPClientFor(config)
		if err != nil {
			t.Fatal(err)
		}
		response, err := client.Post(config.Host+c.path, "application/json", strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(recorder, response.Body)
		response.Body.Close()
		warnings := response.Header.Values("Warning")
		if response.StatusCode != http.StatusCreated || len(warnings) != 1 || !strings.Contains(warnings[0], c.want) {
			t.Errorf("%d with %q, want one of %q: %s", response.StatusCode, warnings, c.want, recorder.Body)
		}
	}
}

func TestPrivilegedContainersAreAllowedUnlessForbidden(t *testing.T) {
	const body = `{"metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"i","securityContext":{"privileged":true}}]}}`
	try := func(forbid bool) (int, string) {
		capabilities.ResetForTest()
		h := harness.NewConfigured(t, func(c *apiserver.Config) { c.ForbidPrivileged = forbid })
		return raw(t, h.Config("admin", "system:masters"), "POST", "/api/v1/namespaces/default/pods", "application/json", []byte(body))
	}
	t.Cleanup(capabilities.ResetForTest)
	if code, answer := try(true); code != 422 || !strings.Contains(answer, "disallowed by cluster policy") {
		t.Errorf("forbidden: %d %s", code, answer)
	}
	if code, answer := try(false); code != 201 {
		t.Errorf("allowed: %d %s", code, answer)
	}
}

func TestAcceptIsReadByQuality(t *testing.T) {
	config := harness.New(t).Config("admin", "system:masters")
	for _, c := range []struct{ path, accept, agent, begins string }{
		{"/api/v1/namespaces/default", "application/json;q=0.5, application/yaml", "", "apiVersion: v1"},
		{"/api/v1/namespaces/default", "application/yaml;q=0, application/json", "", `{"kind":"Namespace"`},
		{"/api/v1/namespaces/default", "application/yaml;q=0.1, */*", "", `{"kind":"Namespace"`},
		{"/api/v1/namespaces/default", "application/json", "curl/8", "{\n  \"kind\""},
		{"/api/v1/namespaces/default?pretty=0", "application/json", "curl/8", `{"kind"`},
		{"/api/v1/namespaces/default?pretty=1", "application/json", "", "{\n  \"kind\""},
		{"/api/v1/namespaces/default", "application/vnd.kubernetes.protobuf", "", "k8s\x00"},
		{"/api/v1/namespaces", "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", "", `{"kind":"PartialObjectMetadataList"`},
		{"/api/v1/namespaces/default/pods", "application/json;as=Table;g=meta.k8s.io;v=v1", "", `{"kind":"Table"`},
	} {
		header := []string{"Accept", c.accept}
		if c.agent != "" {
			header = append(header, "User-Agent", c.agent)
		}
		if code, body := raw(t, config, "GET", c.path, "", nil, header...); code != 200 || !strings.HasPrefix(body, c.begins) {
			t.Errorf("%s as %q: %d %.60q", c.path, c.accept, code, body)
		}
	}
	code, body := raw(t, config, "POST", "/api/v1/namespaces/default/configmaps?includeObject=Bogus", "application/json", []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"t"}}`),
		"Accept", "application/json;as=Table;g=meta.k8s.io;v=v1")
	if code != 422 {
		t.Errorf("%d %s", code, body)
	}
	if code, _ = raw(t, config, "GET", "/api/v1/namespaces/default/configmaps/t", "", nil); code != 404 {
		t.Errorf("what was refused was made: %d", code)
	}
	// What is answered and forgotten has no columns.
	code, body = raw(t, config, "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", "application/json",
		[]byte(`{"apiVersion":"authorization.k8s.io/v1","kind":"SelfSubjectAccessReview","spec":{"nonResourceAttributes":{"path":"/","verb":"get"}}}`),
		"Accept", "application/json;as=Table;g=meta.k8s.io;v=v1")
	if code != 406 {
		t.Errorf("a review as a table: %d %s", code, body)
	}
	if code, body := raw(t, config, "HEAD", "/api/v1/namespaces/default", "", nil); code != 200 || body != "" {
		t.Errorf("HEAD: %d %s", code, body)
	}
}
