package rpc_test

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
	"github.com/kontiki/kontiki/test/harness"
)

var configMaps = &kontikiv1.Kind{Version: "v1", Kind: "ConfigMap"}

// configMap returns a ConfigMap in protobuf.
func configMap(t testing.TB, name string, data map[string]string) *kontikiv1.Object {
	t.Helper()
	return object(t, configMaps, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Data: data})
}

func object(t testing.TB, kind *kontikiv1.Kind, obj interface{ Marshal() ([]byte, error) }) *kontikiv1.Object {
	t.Helper()
	raw, err := obj.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return &kontikiv1.Object{Kind: kind, Data: raw}
}

func decoded(t testing.TB, in *kontikiv1.Object) *corev1.ConfigMap {
	t.Helper()
	out := &corev1.ConfigMap{}
	if err := out.Unmarshal(in.GetData()); err != nil {
		t.Fatal(err)
	}
	return out
}

func ref(name string) *kontikiv1.Reference {
	return &kontikiv1.Reference{Kind: configMaps, Namespace: "default", Name: name}
}

func wantCode(t testing.TB, err error, code codes.Code) {
	t.Helper()
	if status.Code(err) != code {
		t.Fatalf("%v, want %v", err, code)
	}
}

func deadline(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestObjectsAreCreatedReadChangedAndDeleted(t *testing.T) {
	h := harness.New(t)
	ctx := deadline(t)
	api := kontikiv1.NewObjectsClient(h.GRPC("admin", "system:masters"))
	created, err := api.Create(ctx, &kontikiv1.CreateRequest{Object: configMap(t, "a", map[string]string{"k": "1"})})
	if err != nil {
		t.Fatal(err)
	}
	o := created.Object
	if o.Namespace != "default" || o.Name != "a" || o.Uid == "" || o.ResourceVersion == "" || o.Kind.Kind != "ConfigMap" {
		t.Errorf("created %v", o)
	}
	stored := decoded(t, o)
	if string(stored.UID) != o.Uid || stored.ResourceVersion != o.ResourceVersion || len(stored.ManagedFields) != 1 || stored.ManagedFields[0].Manager != "harness" {
		t.Errorf("stored %v", stored)
	}
	got, err := api.Get(ctx, &kontikiv1.GetRequest{Reference: ref("a")})
	if err != nil {
		t.Fatal(err)
	}
	if got.Object.Uid != o.Uid || decoded(t, got.Object).Data["k"] != "1" {
		t.Errorf("got %v", got.Object)
	}
	stored.Data["k"] = "2"
	updated, err := api.Update(ctx, &kontikiv1.UpdateRequest{Object: object(t, configMaps, stored)})
	if err != nil {
		t.Fatal(err)
	}
	_, err = api.Update(ctx, &kontikiv1.UpdateRequest{Object: object(t, configMaps, stored)})
	wantCode(t, err, codes.Aborted)
	patched, err := api.Patch(ctx, &kontikiv1.PatchRequest{Reference: ref("a"), Type: kontikiv1.PatchType_PATCH_TYPE_MERGE, Patch: []byte(`{"data":{"l":"3"}}`), Encoding: kontikiv1.Encoding_ENCODING_JSON})
	if err != nil {
		t.Fatal(err)
	}
	if patched.Object.ResourceVersion == updated.Object.ResourceVersion || patched.Object.Data[0] != '{' {
		t.Errorf("patched %v", patched.Object)
	}
	applied, err := api.Apply(ctx, &kontikiv1.ApplyRequest{Reference: ref("b"), Configuration: []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: b}\ndata: {x: why}\n"), Options: &kontikiv1.WriteOptions{FieldManager: "m"}})
	if err != nil {
		t.Fatal(err)
	}
	if !applied.Created || decoded(t, applied.Object).Data["x"] != "why" {
		t.Errorf("applied %v", applied)
	}
	deleted, err := api.Delete(ctx, &kontikiv1.DeleteRequest{Reference: ref("a")})
	if err != nil {
		t.Fatal(err)
	}
	if !deleted.Gone || decoded(t, deleted.Object).Data["l"] != "3" {
		t.Errorf("deleted %v", deleted)
	}
	_, err = api.Get(ctx, &kontikiv1.GetRequest{Reference: ref("a")})
	wantCode(t, err, codes.NotFound)
}

func TestATransactionIsCarriedOutWholeOrNotAtAll(t *testing.T) {
	h := harness.New(t)
	ctx := deadline(t)
	api := kontikiv1.NewObjectsClient(h.GRPC("admin", "system:masters"))
	create := func(name string) *kontikiv1.Operation {
		return &kontikiv1.Operation{Operation: &kontikiv1.Operation_Create{Create: &kontikiv1.CreateRequest{Object: configMap(t, name, nil)}}}
	}
	absent := func(name string) *kontikiv1.Operation {
		return &kontikiv1.Operation{Operation: &kontikiv1.Operation_Check{Check: &kontikiv1.Check{Reference: ref(name)}}}
	}
	answer, err := api.Transact(ctx, &kontikiv1.TransactRequest{Operations: []*kontikiv1.Operation{create("a"), create("b"), absent("c")}})
	if err != nil {
		t.Fatal(err)
	}
	if len(answer.Results) != 3 || !answer.Results[0].Created || answer.Results[1].Object.Name != "b" || answer.Results[2].Object != nil || answer.ResourceVersion == "" {
		t.Errorf("%v", answer)
	}
	_, err = api.Transact(ctx, &kontikiv1.TransactRequest{Operations: []*kontikiv1.Operation{create("d"), create("a")}})
	wantCode(t, err, codes.AlreadyExists)
	if want := `operations[1]: configmaps "a" already exists`; status.Convert(err).Message() != want {
		t.Errorf("%v, want %s", err, want)
	}
	found := false
	for _, detail := range status.Convert(err).Details() {
		if d, ok := detail.(*kontikiv1.TransactionDetail); ok {
			found = d.Operation == 1
		}
	}
	if !found {
		t.Errorf("details %v do not name the operation", status.Convert(err).Details())
	}
	_, err = api.Get(ctx, &kontikiv1.GetRequest{Reference: ref("d")})
	wantCode(t, err, codes.NotFound)
}
