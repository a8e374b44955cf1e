package client_test

import (
	"context"
	"crypto/tls"
	"errors"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	appsapply "k8s.io/client-go/applyconfigurations/apps/v1"
	coreapply "k8s.io/client-go/applyconfigurations/core/v1"
	metaapply "k8s.io/client-go/applyconfigurations/meta/v1"

	"github.com/kontiki/kontiki/client"
	"github.com/kontiki/kontiki/fsm"
	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
	"github.com/kontiki/kontiki/test/harness"
)

// connect is a client of a harness' API as a user.
func connect(t testing.TB, h *harness.Harness, user string, groups ...string) *client.Client {
	t.Helper()
	rest := h.Config(user, groups...)
	pair, err := tls.X509KeyPair(rest.CertData, rest.KeyData)
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.Dial(deadline(t), client.Config{
		Endpoints: []string{rest.Host}, Name: "tester",
		TLS: &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{pair}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func deadline(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func settings(name, colour string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Data: map[string]string{"colour": colour}}
}

func TestEveryCallOnTheRealAPI(t *testing.T) {
	c := connect(t, harness.New(t), "admin", "system:masters")
	ctx := deadline(t)
	created, err := client.Create(ctx, c, settings("a", "red"))
	if err != nil {
		t.Fatal(err)
	}
	if created.UID == "" || created.ResourceVersion == "" || created.ManagedFields[0].Manager != "tester" || created.Kind != "ConfigMap" {
		t.Errorf("%+v", created)
	}
	if _, err := client.Create(ctx, c, settings("dry", "red"), client.DryRun()); err != nil {
		t.Error(err)
	}
	if _, err := client.Get[*corev1.ConfigMap](ctx, c, "default", "dry"); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("%v", err)
	}
	changed := created.DeepCopy()
	changed.Data["colour"] = "green"
	updated, err := client.Update(ctx, c, changed)
	if err != nil || updated.Data["colour"] != "green" {
		t.Fatalf("%+v %v", updated, err)
	}
	_, err = client.Update(ctx, c, changed)
	var failed *client.Error
	if !errors.Is(err, client.ErrConflict) || !errors.As(err, &failed) || failed.ResourceVersion != updated.ResourceVersion ||
		len(failed.Fields) != 1 || failed.Fields[0].Path != "object.data.metadata.resourceVersion" || failed.Fields[0].Problem == "" {
		t.Errorf("%v", err)
	}
	patched, err := client.Patch[*corev1.ConfigMap](ctx, c, "default", "a", types.MergePatchType, []byte(`{"data":{"size":"big"}}`))
	if err != nil || patched.Data["size"] != "big" || patched.Data["colour"] != "green" {
		t.Errorf("%+v %v", patched, err)
	}
	bad := settings("Bad_Name", "red")
	if _, err = client.Create(ctx, c, bad); !errors.Is(err, client.ErrInvalid) || !errors.As(err, &failed) ||
		!slices.ContainsFunc(failed.Status().Details.Causes, func(cause metav1.StatusCause) bool { return cause.Field == "metadata.name" }) ||
		len(failed.Fields) != 1 || failed.Fields[0].Path != "object.data.metadata.name" {
		t.Errorf("%v", err)
	}

	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	if pod, err = client.Create(ctx, c, pod); err != nil {
		t.Fatal(err)
	}
	pod.Status.Phase, pod.Spec.Containers[0].Image = corev1.PodRunning, "not-stored"
	if pod, err = client.UpdateStatus(ctx, c, pod); err != nil || pod.Status.Phase != corev1.PodRunning || pod.Spec.Containers[0].Image != "i" {
		t.Errorf("%+v %v", pod, err)
	}
	if _, gone, err := client.Delete[*corev1.Pod](ctx, c, "default", "p", client.OnlyAt(string(created.UID), "")); !errors.Is(err, client.ErrConflict) || gone {
		t.Errorf("%v %v", gone, err)
	}
	if last, gone, err := client.Delete[*corev1.Pod](ctx, c, "default", "p", client.Grace(0)); err != nil || !gone || last.UID != pod.UID {
		t.Errorf("%v %v %v", last, gone, err)
	}

	for _, name := range []string{"b", "c", "d"} {
		if _, err := client.Create(ctx, c, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{"of": "list"}}}); err != nil {
			t.Fatal(err)
		}
	}
	var sizes []int
	for page, err := range client.Pages[*corev1.ConfigMap](ctx, c, "", client.Labels("of=list"), client.PageSize(2)) {
		if err != nil {
			t.Fatal(err)
		}
		sizes = append(sizes, len(page.Items))
	}
	if !slices.Equal(sizes, []int{2, 1}) {
		t.Errorf("pages of %v", sizes)
	}
	old, version, err := client.List[*corev1.ConfigMap](ctx, c, "default", client.AsOf(created.ResourceVersion))
	if err != nil || version != created.ResourceVersion || !slices.ContainsFunc(old, func(cm *corev1.ConfigMap) bool { return cm.Name == "a" && cm.Data["colour"] == "red" }) {
		t.Errorf("%v %q %v", old, version, err)
	}
	if gone, err := client.DeleteAll[*corev1.ConfigMap](ctx, c, "default", client.Labels("of=list")); err != nil || len(gone) != 3 {
		t.Errorf("%v %v", gone, err)
	}
}

func TestApplyTakesObjectsConfigurationsAndText(t *testing.T) {
	c := connect(t, harness.New(t), "admin", "system:masters")
	ctx := deadline(t)
	labels := map[string]string{"app": "web"}
	config := appsapply.Deployment("web", "default").WithSpec(appsapply.DeploymentSpec().WithReplicas(2).
		WithSelector(metaapply.LabelSelector().WithMatchLabels(labels)).
		WithTemplate(coreapply.PodTemplateSpec().WithLabels(labels).WithSpec(coreapply.PodSpec().WithContainers(coreapply.Container().WithName("c").WithImage("i")))))
	web, err := client.Apply[*appsv1.Deployment](ctx, c, config)
	if err != nil || *web.Spec.Replicas != 2 {
		t.Fatalf("%+v %v", web, err)
	}
	const text = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, namespace: default}\nspec: {replicas: 3}\n"
	if _, err := client.Apply[*appsv1.Deployment](ctx, c, []byte(text), client.Manager("other")); !errors.Is(err, client.ErrConflict) {
		t.Errorf("%v", err)
	}
	if web, err = client.Apply[*appsv1.Deployment](ctx, c, text, client.Manager("other"), client.Force()); err != nil || *web.Spec.Replicas != 3 {
		t.Errorf("%+v %v", web, err)
	}
	cm, err := client.Apply[*corev1.ConfigMap](ctx, c, settings("applied", "blue"))
	if err != nil || cm.Data["colour"] != "blue" || cm.ManagedFields[0].Operation != metav1.ManagedFieldsOperationApply {
		t.Errorf("%+v %v", cm, err)
	}
}

func TestObjectsWithoutGoTypes(t *testing.T) {
	c := connect(t, harness.New(t), "admin", "system:masters")
	ctx := deadline(t)
	kind := client.Kind{Version: "v1", Kind: "ConfigMap"}
	raw := &unstructured.Unstructured{Object: map[string]any{"data": map[string]any{"colour": "red"}}}
	raw.SetGroupVersionKind(kind)
	raw.SetNamespace("default")
	raw.SetName("raw")
	if _, err := client.Create(ctx, c, raw); err != nil {
		t.Fatal(err)
	}
	got, err := client.Get[*unstructured.Unstructured](ctx, c, "default", "raw", client.OfKind(kind))
	if colour, _, _ := unstructured.NestedString(got.UnstructuredContent(), "data", "colour"); err != nil || colour != "red" || got.GetUID() == "" {
		t.Errorf("%v %v", got, err)
	}
	for e, err := range client.Watch[*unstructured.Unstructured](ctx, c, "default", client.OfKind(kind), client.Named("raw")) {
		if err != nil || e.Type != client.Added || e.Object.GetName() != "raw" {
			t.Errorf("%+v %v", e, err)
		}
		break
	}
}

func TestTransactionsAreWholeOrNothing(t *testing.T) {
	c := connect(t, harness.New(t), "admin", "system:masters")
	ctx := deadline(t)
	old, err := client.Create(ctx, c, settings("old", "red"))
	if err != nil {
		t.Fatal(err)
	}
	counter, err := client.Create(ctx, c, settings("counter", "1"))
	if err != nil {
		t.Fatal(err)
	}
	build := func() (*client.Transaction, client.Operation) {
		tx := c.Transaction()
		tx.Create(settings("new", "green"))
		tx.Delete(client.RefTo(old))
		tx.Patch(client.RefOf[*corev1.ConfigMap]("default", "counter"), types.MergePatchType, []byte(`{"data":{"colour":"2"}}`))
		tx.CheckAbsent(client.RefOf[*corev1.ConfigMap]("default", "freeze"))
		return tx, tx.Apply(settings("applied", "blue"))
	}
	tx, _ := build()
	place := tx.Update(settings("missing", "x"))
	_, err = tx.Commit(ctx)
	var failed *client.TransactionError
	if !errors.As(err, &failed) || failed.Operation != place || !errors.Is(err, client.ErrNotFound) {
		t.Fatalf("%v", err)
	}
	tx, applied := build()
	dry, err := tx.Commit(ctx, client.DryRun())
	if err != nil || len(dry.Results) != 5 {
		t.Fatal(err)
	}
	if _, err := client.Get[*corev1.ConfigMap](ctx, c, "default", "new"); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("%v", err)
	}
	done, err := tx.Commit(ctx)
	if err != nil {
		t.Fatal(err)
	}
	r := done.Results
	if !r[0].Created || r[0].Object.(*corev1.ConfigMap).Data["colour"] != "green" || !r[1].Gone || r[1].Object.GetUID() != old.UID || r[3].Object != nil ||
		client.ResultOf[*corev1.ConfigMap](done, applied).Data["colour"] != "blue" || client.ResultOf[*corev1.ConfigMap](done, 2).UID != counter.UID {
		t.Errorf("%+v", r)
	}
	// A condition that was read before the transaction is no longer met.
	tx = c.Transaction()
	tx.Check(client.RefTo(counter), counter.ResourceVersion)
	tx.Create(settings("never", "x"))
	if _, err := tx.Commit(ctx); !errors.Is(err, client.ErrConflict) || !errors.As(err, &failed) || failed.Operation != 0 {
		t.Errorf("%v", err)
	}
	if _, err := client.Get[*corev1.ConfigMap](ctx, c, "default", "never"); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("%v", err)
	}
}

func TestAWatchOfTheRealAPI(t *testing.T) {
	h := harness.NewWith(t, fsm.Options{HistoryEvents: 50})
	c := connect(t, h, "admin", "system:masters")
	ctx := deadline(t)
	first, err := client.Create(ctx, c, settings("w", "0"))
	if err != nil {
		t.Fatal(err)
	}
	var seen []string
	for e, err := range client.Watch[*corev1.ConfigMap](ctx, c, "default", client.Named("w")) {
		if err != nil {
			t.Fatal(err)
		}
		seen = append(seen, e.Type.String())
		switch e.Type {
		case client.Synced:
			for _, colour := range []string{"1", "2"} {
				if _, err := client.Update(ctx, c, settings("w", colour)); err != nil {
					t.Fatal(err)
				}
			}
			if _, _, err := client.Delete[*corev1.ConfigMap](ctx, c, "default", "w"); err != nil {
				t.Fatal(err)
			}
		case client.Deleted:
			if e.Object.Data["colour"] != "2" || e.ResourceVersion == "" {
				t.Errorf("%+v", e)
			}
		}
		if e.Type == client.Deleted {
			break
		}
	}
	if want := []string{"Added", "Synced", "Modified", "Modified", "Deleted"}; !slices.Equal(seen, want) {
		t.Errorf("%v", seen)
	}
	for range 60 {
		if _, err := client.Update(ctx, c, settings("w", "x")); errors.Is(err, client.ErrNotFound) {
			_, err = client.Create(ctx, c, settings("w", "x"))
			if err != nil {
				t.Fatal(err)
			}
		}
		if _, _, err := client.Delete[*corev1.ConfigMap](ctx, c, "default", "w"); err != nil {
			t.Fatal(err)
		}
	}
	for e, err := range client.Watch[*corev1.ConfigMap](ctx, c, "default", client.After(first.ResourceVersion)) {
		if err != nil || e.Type != client.Restarted {
			t.Errorf("%+v %v", e, err)
		}
		break
	}
}

func TestOthersAreRefused(t *testing.T) {
	h := harness.New(t)
	c := connect(t, h, "nobody")
	ctx := deadline(t)
	if _, err := client.Get[*corev1.Secret](ctx, c, "default", "a"); !errors.Is(err, client.ErrForbidden) {
		t.Errorf("%v", err)
	}
	for _, err := range client.Watch[*corev1.Secret](ctx, c, "default") {
		if !errors.Is(err, client.ErrForbidden) {
			t.Errorf("%v", err)
		}
	}
	_, err := client.Dial(ctx, client.Config{Endpoints: []string{h.Config("x").Host}, TLS: &tls.Config{InsecureSkipVerify: true}, Token: "wrong"})
	if !errors.Is(err, client.ErrUnauthorized) {
		t.Errorf("%v", err)
	}
	if _, err = client.Dial(ctx, client.Config{Endpoints: []string{h.Config("x").Host}, Patience: 100 * time.Millisecond}); !errors.Is(err, client.ErrUnavailable) {
		t.Errorf("%v", err) // the certificate is not trusted
	}
	// The generated clients work over the connection, too.
	if _, err := kontikiv1.NewObjectsClient(c).Get(ctx, &kontikiv1.GetRequest{}); !errors.Is(err, client.ErrInvalid) {
		t.Errorf("%v", err)
	}
}

func TestMastersAreDiscovered(t *testing.T) {
	h := harness.New(t)
	c := connect(t, h, "admin", "system:masters")
	ctx := deadline(t)
	given := c.Endpoint()
	if err := c.Discover(ctx); err != nil || !slices.Equal(c.Endpoints(), []string{given}) {
		t.Errorf("%v %v", c.Endpoints(), err)
	}
	port, name, other, no := int32(6443), "https", "metrics", int32(9)
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: "kubernetes", Labels: map[string]string{discoveryv1.LabelServiceName: "kubernetes"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &name, Port: &port}, {Name: &other, Port: &no}},
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.1"}}, {Addresses: []string{"10.0.0.2"}}},
	}
	slice, err := client.Create(ctx, c, slice)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := c.Discover(ctx); err != nil || !slices.Equal(c.Endpoints(), []string{given, "10.0.0.1:6443", "10.0.0.2:6443"}) || c.Endpoint() != given {
			t.Errorf("%v %v", c.Endpoints(), err)
		}
	}
	slice.Endpoints = []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.2"}}, {Addresses: []string{"10.0.0.3"}}}
	if _, err := client.Update(ctx, c, slice); err != nil {
		t.Fatal(err)
	}
	if err := c.Discover(ctx); err != nil || !slices.Equal(c.Endpoints(), []string{given, "10.0.0.2:6443", "10.0.0.3:6443"}) {
		t.Errorf("%v %v", c.Endpoints(), err)
	}
	if err := connect(t, h, "nobody").Discover(ctx); !errors.Is(err, client.ErrForbidden) {
		t.Errorf("%v", err)
	}
}
