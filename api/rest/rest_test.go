package rest_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	corev1apply "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/kubernetes"
	clientrest "k8s.io/client-go/rest"

	"github.com/kontiki/kontiki/test/harness"
)

func pod(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "busybox"}}},
	}
}

// clients runs a test in each encoding that client-go speaks.
func clients(t *testing.T, test func(t *testing.T, set *kubernetes.Clientset)) {
	for _, encoding := range []string{"application/json", "application/vnd.kubernetes.protobuf"} {
		t.Run(encoding, func(t *testing.T) {
			config := harness.New(t).Config("admin", "system:masters")
			config.ContentType, config.AcceptContentTypes = encoding, encoding
			set, err := kubernetes.NewForConfig(config)
			if err != nil {
				t.Fatal(err)
			}
			test(t, set)
		})
	}
}

func TestCreateDefaultsStampsAndAnswersWhatIsStored(t *testing.T) {
	clients(t, func(t *testing.T, set *kubernetes.Clientset) {
		ctx := context.Background()
		created, err := set.CoreV1().Pods("default").Create(ctx, pod("a"), metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if created.UID == "" || created.CreationTimestamp.IsZero() || created.ResourceVersion == "" || created.Generation != 1 {
			t.Errorf("not stamped: %+v", created.ObjectMeta)
		}
		if created.Spec.RestartPolicy != corev1.RestartPolicyAlways || created.Status.Phase != corev1.PodPending || created.Status.QOSClass != corev1.PodQOSBestEffort {
			t.Errorf("not defaulted: %+v", created)
		}
		if created.Spec.ServiceAccountName != "default" || len(created.Spec.Volumes) != 1 || len(created.Spec.Tolerations) != 2 || created.Spec.Priority == nil {
			t.Errorf("not admitted: %+v", created.Spec)
		}
		if len(created.ManagedFields) != 1 || created.ManagedFields[0].Operation != metav1.ManagedFieldsOperationUpdate {
			t.Errorf("fields are not tracked: %+v", created.ManagedFields)
		}
		got, err := set.CoreV1().Pods("default").Get(ctx, "a", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		// Typed clients do not set types in responses to a create in JSON; compare everything else.
		created.TypeMeta, got.TypeMeta = metav1.TypeMeta{}, metav1.TypeMeta{}
		a, _ := json.Marshal(created)
		b, _ := json.Marshal(got)
		if !bytes.Equal(a, b) {
			t.Errorf("created and stored differ:\n%s\n%s", a, b)
		}
		if _, err := set.CoreV1().Pods("default").Create(ctx, pod("a"), metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
			t.Errorf("a second creation: %v", err)
		}
		if _, err := set.CoreV1().Pods("nowhere").Create(ctx, pod("a"), metav1.CreateOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("a creation in a namespace that is not there: %v", err)
		}
	})
}

func TestListPagesShowOneRevision(t *testing.T) {
	clients(t, func(t *testing.T, set *kubernetes.Clientset) {
		ctx := context.Background()
		for i := range 5 {
			if _, err := set.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("cm-", i), Labels: map[string]string{"odd": fmt.Sprint(i%2 == 1)}}}, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		first, err := set.CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{Limit: 2})
		if err != nil {
			t.Fatal(err)
		}
		if len(first.Items) != 2 || first.Continue == "" || first.RemainingItemCount == nil || *first.RemainingItemCount != 3 {
			t.Fatalf("first page: %d items, %+v", len(first.Items), first.ListMeta)
		}
		if err := set.CoreV1().ConfigMaps("default").Delete(ctx, "cm-4", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		second, err := set.CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{Limit: 9, Continue: first.Continue})
		if err != nil {
			t.Fatal(err)
		}
		if len(second.Items) != 3 || second.ResourceVersion != first.ResourceVersion || second.Items[2].Name != "cm-4" {
			t.Errorf("second page shows another state: %+v", second)
		}
		odd, err := set.CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{LabelSelector: "odd=true"})
		if err != nil || len(odd.Items) != 2 {
			t.Errorf("by label: %+v, %v", odd, err)
		}
		one, err := set.CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=cm-1"})
		if err != nil || len(one.Items) != 1 {
			t.Errorf("by name: %+v, %v", one, err)
		}
		if _, err := set.CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{FieldSelector: "data.x=1"}); !apierrors.IsBadRequest(err) {
			t.Errorf("by an unknown field: %v", err)
		}
	})
}

func TestWatchResumesAndFollowsSelectors(t *testing.T) {
	clients(t, func(t *testing.T, set *kubernetes.Clientset) {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		maps := set.CoreV1().ConfigMaps("default")
		before, err := maps.List(ctx, metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		cm, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "x", Labels: map[string]string{"in": "yes"}}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		cm.Labels["in"] = "no"
		if cm, err = maps.Update(ctx, cm, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		cm.Labels["in"] = "yes"
		if _, err = maps.Update(ctx, cm, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		w, err := maps.Watch(ctx, metav1.ListOptions{ResourceVersion: before.ResourceVersion, LabelSelector: "in=yes"})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Stop()
		for _, want := range []watch.EventType{watch.Added, watch.Deleted, watch.Added} {
			event := <-w.ResultChan()
			if event.Type != want {
				t.Fatalf("%s: %+v, want %s", event.Type, event.Object, want)
			}
			if got := event.Object.(*corev1.ConfigMap); got.Labels["in"] != "yes" || got.ResourceVersion == "" {
				t.Errorf("%s shows %+v", event.Type, got.ObjectMeta)
			}
		}
		yes := true
		initial, err := maps.Watch(ctx, metav1.ListOptions{SendInitialEvents: &yes, AllowWatchBookmarks: true, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan})
		if err != nil {
			t.Fatal(err)
		}
		defer initial.Stop()
		if event := <-initial.ResultChan(); event.Type != watch.Added {
			t.Fatalf("initial event: %+v", event)
		}
		event := <-initial.ResultChan()
		if mark, ok := event.Object.(*corev1.ConfigMap); event.Type != watch.Bookmark || !ok || mark.Annotations[metav1.InitialEventsAnnotationKey] != "true" {
			t.Fatalf("end of the initial events: %+v", event)
		}
	})
}

func TestPatchTypes(t *testing.T) {
	clients(t, func(t *testing.T, set *kubernetes.Clientset) {
		ctx := context.Background()
		pods := set.CoreV1().Pods("default")
		if _, err := pods.Create(ctx, pod("a"), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		for _, p := range []struct {
			kind types.PatchType
			data string
			key  string
		}{
			{types.JSONPatchType, `[{"op":"add","path":"/metadata/labels/json","value":"1"}]`, "json"},
			{types.MergePatchType, `{"metadata":{"labels":{"merge":"1"}}}`, "merge"},
			{types.StrategicMergePatchType, `{"metadata":{"labels":{"strategic":"1"}},"spec":{"containers":[{"name":"c","image":"busybox:2"}]}}`, "strategic"},
		} {
			got, err := pods.Patch(ctx, "a", p.kind, []byte(p.data), metav1.PatchOptions{})
			if err != nil {
				t.Fatalf("%s: %v", p.kind, err)
			}
			if got.Labels[p.key] != "1" {
				t.Errorf("%s: %v", p.kind, got.Labels)
			}
		}
		got, err := pods.Patch(ctx, "a", types.MergePatchType, []byte(`{"metadata":{"labels":{"merge":"1"}}}`), metav1.PatchOptions{})
		if err != nil {
			t.Fatal(err)
		}
		again, err := pods.Get(ctx, "a", metav1.GetOptions{})
		if err != nil || again.ResourceVersion != got.ResourceVersion || again.Spec.Containers[0].Image != "busybox:2" {
			t.Errorf("a patch that changes nothing was a write: %v, %v", again, err)
		}
		if _, err := pods.Patch(ctx, "a", types.MergePatchType, []byte(`{"spec":{"nodeName":"n"}}`), metav1.PatchOptions{}); !apierrors.IsInvalid(err) {
			t.Errorf("a forbidden change: %v", err)
		}
		if _, err := pods.Patch(ctx, "a", types.JSONPatchType, []byte(`{`), metav1.PatchOptions{}); !apierrors.IsBadRequest(err) {
			t.Errorf("a broken patch: %v", err)
		}
	})
}

func TestServerSideApplyTracksOwnersAndConflicts(t *testing.T) {
	clients(t, func(t *testing.T, set *kubernetes.Clientset) {
		ctx := context.Background()
		maps := set.CoreV1().ConfigMaps("default")
		config := corev1apply.ConfigMap("x", "default").WithData(map[string]string{"a": "1", "b": "1"})
		if _, err := maps.Apply(ctx, config, metav1.ApplyOptions{FieldManager: "one"}); err != nil {
			t.Fatal(err)
		}
		other := corev1apply.ConfigMap("x", "default").WithData(map[string]string{"a": "2"})
		if _, err := maps.Apply(ctx, other, metav1.ApplyOptions{FieldManager: "two"}); !apierrors.IsConflict(err) || !strings.Contains(err.Error(), `conflict with "one"`) {
			t.Fatalf("a conflict: %v", err)
		}
		got, err := maps.Apply(ctx, other, metav1.ApplyOptions{FieldManager: "two", Force: true})
		if err != nil || got.Data["a"] != "2" || got.Data["b"] != "1" {
			t.Fatalf("forced: %+v, %v", got, err)
		}
		got, err = maps.Apply(ctx, corev1apply.ConfigMap("x", "default").WithData(map[string]string{}), metav1.ApplyOptions{FieldManager: "one"})
		if err != nil || len(got.Data) != 1 || got.Data["a"] != "2" {
			t.Fatalf("what its owner no longer applies stays: %+v, %v", got, err)
		}
	})
}

func TestConflictingUpdatesAreRefused(t *testing.T) {
	clients(t, func(t *testing.T, set *kubernetes.Clientset) {
		ctx := context.Background()
		maps := set.CoreV1().ConfigMaps("default")
		cm, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "x"}, Data: map[string]string{"n": "0"}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		stale := cm.DeepCopy()
		cm.Data["n"] = "1"
		if _, err = maps.Update(ctx, cm, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		stale.Data["n"] = "2"
		if _, err = maps.Update(ctx, stale, metav1.UpdateOptions{}); !apierrors.IsConflict(err) || !strings.Contains(err.Error(), "the object has been modified; please apply your changes to the latest version and try again") {
			t.Fatalf("a stale update: %v", err)
		}
		stale.ResourceVersion = ""
		if _, err = maps.Update(ctx, stale, metav1.UpdateOptions{}); err != nil {
			t.Fatalf("an unconditional update: %v", err)
		}
	})
}

func TestDeletionWaitsForGraceAndFinalizers(t *testing.T) {
	clients(t, func(t *testing.T, set *kubernetes.Clientset) {
		ctx := context.Background()
		p := pod("a")
		if _, err := set.CoreV1().Pods("default").Create(ctx, p, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := set.CoreV1().Pods("default").Bind(ctx, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Target: corev1.ObjectReference{Kind: "Node", Name: "n"}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := set.CoreV1().Pods("default").Delete(ctx, "a", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		got, err := set.CoreV1().Pods("default").Get(ctx, "a", metav1.GetOptions{})
		if err != nil || got.DeletionTimestamp == nil || *got.DeletionGracePeriodSeconds != 30 {
			t.Fatalf("a scheduled pod: %+v, %v", got, err)
		}
		zero := int64(0)
		if err := set.CoreV1().Pods("default").Delete(ctx, "a", metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil {
			t.Fatal(err)
		}
		if _, err := set.CoreV1().Pods("default").Get(ctx, "a", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Fatalf("after a forced deletion: %v", err)
		}
		_, err = set.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "f", Finalizers: []string{"example.com/hold"}}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := set.CoreV1().ConfigMaps("default").Delete(ctx, "f", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		cm, err := set.CoreV1().ConfigMaps("default").Get(ctx, "f", metav1.GetOptions{})
		if err != nil || cm.DeletionTimestamp == nil {
			t.Fatalf("with a finalizer: %+v, %v", cm, err)
		}
		cm.Finalizers = nil
		if _, err := set.CoreV1().ConfigMaps("default").Update(ctx, cm, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := set.CoreV1().ConfigMaps("default").Get(ctx, "f", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Fatalf("after its finalizer went: %v", err)
		}
	})
}

func TestServicesHoldTheirAddressesAndPorts(t *testing.T) {
	clients(t, func(t *testing.T, set *kubernetes.Clientset) {
		ctx := context.Background()
		services := set.CoreV1().Services("default")
		port := func(n int32) []corev1.ServicePort { return []corev1.ServicePort{{Port: 80, NodePort: n}} }
		a, err := services.Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: port(0)}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(a.Spec.ClusterIP, "10.96.") || a.Spec.Ports[0].NodePort < 30000 {
			t.Fatalf("not allocated: %+v", a.Spec)
		}
		if _, err := services.Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "b"}, Spec: corev1.ServiceSpec{ClusterIP: a.Spec.ClusterIP, Ports: port(0)}}, metav1.CreateOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "provided IP is already allocated") {
			t.Fatalf("a taken address: %v", err)
		}
		if _, err := services.Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "b"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: port(a.Spec.Ports[0].NodePort)}}, metav1.CreateOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "provided port is already allocated") {
			t.Fatalf("a taken port: %v", err)
		}
		if err := services.Delete(ctx, "a", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		b, err := services.Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "b"}, Spec: corev1.ServiceSpec{ClusterIP: a.Spec.ClusterIP, Type: corev1.ServiceTypeNodePort, Ports: port(a.Spec.Ports[0].NodePort)}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatalf("what a deleted service held is not free: %v", err)
		}
		b.Spec.Type = corev1.ServiceTypeClusterIP
		if b, err = services.Update(ctx, b, metav1.UpdateOptions{}); err != nil || b.Spec.Ports[0].NodePort != 0 {
			t.Fatalf("a service that needs no node port any more: %+v, %v", b, err)
		}
	})
}

func TestScaleSubresource(t *testing.T) {
	clients(t, func(t *testing.T, set *kubernetes.Clientset) {
		ctx := context.Background()
		deployments := set.AppsV1().Deployments("default")
		three := int32(3)
		labels := map[string]string{"app": "d"}
		if _, err := deployments.Create(ctx, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "d"}, Spec: appsv1.DeploymentSpec{
			Replicas: &three, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: pod("d").Spec}}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		scale, err := deployments.GetScale(ctx, "d", metav1.GetOptions{})
		if err != nil || scale.Spec.Replicas != 3 || scale.Status.Selector != "app=d" {
			t.Fatalf("%+v, %v", scale, err)
		}
		scale.Spec.Replicas = 5
		if scale, err = deployments.UpdateScale(ctx, "d", scale, metav1.UpdateOptions{}); err != nil || scale.Spec.Replicas != 5 {
			t.Fatalf("%+v, %v", scale, err)
		}
		if _, err := deployments.Patch(ctx, "d", types.MergePatchType, []byte(`{"spec":{"replicas":2}}`), metav1.PatchOptions{}, "scale"); err != nil {
			t.Fatal(err)
		}
		d, err := deployments.Get(ctx, "d", metav1.GetOptions{})
		if err != nil || *d.Spec.Replicas != 2 {
			t.Fatalf("%+v, %v", d, err)
		}
		scale.ResourceVersion = ""
		scale.Spec.Replicas = -1
		if _, err := deployments.UpdateScale(ctx, "d", scale, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) {
			t.Fatalf("negative: %v", err)
		}
	})
}

func TestSecretsAreSealedInTheStore(t *testing.T) {
	h := harness.New(t)
	set := h.Clientset()
	ctx := context.Background()
	if _, err := set.CoreV1().Secrets("default").Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}, StringData: map[string]string{"password": "correct horse"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	v, ok := h.Store.View().Get("/core/secrets/default/s")
	if !ok || bytes.Contains(v.Value, []byte("correct horse")) {
		t.Fatalf("the store holds the secret in the clear (found: %v)", ok)
	}
	got, err := set.CoreV1().Secrets("default").Get(ctx, "s", metav1.GetOptions{})
	if err != nil || string(got.Data["password"]) != "correct horse" {
		t.Fatalf("%v, %v", got, err)
	}
	same, err := set.CoreV1().Secrets("default").Update(ctx, got, metav1.UpdateOptions{})
	if err != nil || same.ResourceVersion != got.ResourceVersion {
		t.Fatalf("an update that changes nothing was a write: %v", err)
	}
}

func TestTokensAuthenticateUntilTheirAccountGoes(t *testing.T) {
	h := harness.New(t)
	h.Roles()
	set := h.Clientset()
	ctx := context.Background()
	token := issueToken(t, set)
	config := h.Config("unused")
	config.CertData, config.KeyData = nil, nil
	config.BearerToken = token
	asAccount, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := asAccount.Discovery().ServerResourcesForGroupVersion("v1"); err != nil {
		t.Fatalf("discovery: %v", err)
	}
	_, err = asAccount.CoreV1().Pods("default").List(ctx, metav1.ListOptions{})
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), `User "system:serviceaccount:default:default" cannot list resource "pods" in API group "" in the namespace "default"`) {
		t.Fatalf("an account without rights: %v", err)
	}
	if err := set.CoreV1().ServiceAccounts("default").Delete(ctx, "default", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := asAccount.Discovery().ServerResourcesForGroupVersion("v1"); !apierrors.IsUnauthorized(err) {
		t.Fatalf("the token of a deleted account: %v", err)
	}
}

func TestRequestsWithoutRightsAreRefused(t *testing.T) {
	h := harness.New(t)
	h.Roles()
	config := h.Config("unused")
	config.CertData, config.KeyData = nil, nil
	http1 := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	status := func(method, path, token string) int {
		t.Helper()
		r, err := http.NewRequest(method, config.Host+path, strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		response, err := http1.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		io.Copy(io.Discard, response.Body)
		return response.StatusCode
	}
	for _, c := range []struct {
		method, path, token string
		want                int
	}{
		{"GET", "/version", "", 200}, {"GET", "/healthz", "", 200}, {"GET", "/readyz", "", 200},
		{"GET", "/api/v1/pods", "", 401}, {"POST", "/api/v1/namespaces/default/pods", "", 401}, {"GET", "/apis", "", 401},
		{"GET", "/version", "nonsense", 401}, {"POST", "/healthz", "", 401},
	} {
		if got := status(c.method, c.path, c.token); got != c.want {
			t.Errorf("%s %s with token %q: %d, want %d", c.method, c.path, c.token, got, c.want)
		}
	}
	set, err := kubernetes.NewForConfig(h.Config("nobody", "nogroup"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := set.CoreV1().Nodes().List(context.Background(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a certificate without rights: %v", err)
	}
}

func issueToken(t *testing.T, set *kubernetes.Clientset) string {
	t.Helper()
	request := &unstructuredToken
	answer, err := set.CoreV1().ServiceAccounts("default").CreateToken(context.Background(), "default", request.DeepCopy(), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return answer.Status.Token
}

// raw sends a body unchanged and returns the Status.
func raw(t *testing.T, config *clientrest.Config, method, path, contentType string, body []byte, header ...string) (int, string) {
	t.Helper()
	client, err := clientrest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequest(method, config.Host+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", contentType)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	response, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(answer)
}
