package rpc_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientrest "k8s.io/client-go/rest"

	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
	"github.com/kontiki/kontiki/test/harness"
)

var uid = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)

// withoutUIDs is a Status without its random values.
func withoutUIDs(s metav1.Status) metav1.Status {
	s.Message = uid.ReplaceAllString(s.Message, "UID")
	if s.Details != nil {
		details := *s.Details
		details.UID = ""
		s.Details = &details
	}
	return s
}

// asTests are the options that correspond to those of the REST transactions.
var asTests = &kontikiv1.WriteOptions{FieldManager: "tests"}

func updateOp(o *kontikiv1.Object) *kontikiv1.Operation {
	return &kontikiv1.Operation{Operation: &kontikiv1.Operation_Update{Update: &kontikiv1.UpdateRequest{Object: o, Options: asTests}}}
}

func patchOp(name, body string) *kontikiv1.Operation {
	return &kontikiv1.Operation{Operation: &kontikiv1.Operation_Patch{Patch: &kontikiv1.PatchRequest{Reference: ref(name), Type: kontikiv1.PatchType_PATCH_TYPE_MERGE, Patch: []byte(body), Options: asTests}}}
}

func applyOp(name, body string) *kontikiv1.Operation {
	return &kontikiv1.Operation{Operation: &kontikiv1.Operation_Apply{Apply: &kontikiv1.ApplyRequest{Reference: ref(name), Configuration: []byte(body), Options: asTests}}}
}

func deleteOp(name string) *kontikiv1.Operation {
	return &kontikiv1.Operation{Operation: &kontikiv1.Operation_Delete{Delete: &kontikiv1.DeleteRequest{Reference: ref(name)}}}
}

// inTx puts a namespace into a ConfigMap's JSON.
func inTx(name, rest string) string {
	return fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":%q,"namespace":"default"}%s}`, name, rest)
}

func furtherSteps() []step {
	const secrets, pods = "/api/v1/namespaces/default/secrets", "/api/v1/namespaces/default/pods"
	secretKind, podKind := &kontikiv1.Kind{Version: "v1", Kind: "Secret"}, &kontikiv1.Kind{Version: "v1", Kind: "Pod"}
	secret := `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s"},"stringData":{"word":"hush"}}`
	badSecret := `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"bad"},"type":"kubernetes.io/tls","data":{}}`
	pod := `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"automountServiceAccountToken":false,"nodeName":"n","containers":[{"name":"c","image":"i","resources":{"limits":{"cpu":"1"}}}]}}`
	running := `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"containers":[{"name":"other","image":"i"}]},"status":{"phase":"Running","podIP":"10.244.0.9"}}`
	moved := `{"spec":{"nodeName":"elsewhere"}}`
	held := `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"held","finalizers":["example.com/held"]}}`
	podRef := &kontikiv1.Reference{Kind: podKind, Namespace: "default", Name: "p"}
	inJSON := kontikiv1.Encoding_ENCODING_JSON
	removePod := func(d *kontikiv1.DeleteOptions) call {
		return func(ctx context.Context, api kontikiv1.ObjectsClient) ([]*kontikiv1.Object, []string, error) {
			r, err := api.Delete(ctx, &kontikiv1.DeleteRequest{Reference: podRef, DeleteOptions: d, Encoding: inJSON})
			return one(r.GetObject(), nil, err) // of Pods, REST answers the object even when it is gone
		}
	}
	forAll := &kontikiv1.TransactRequest{Operations: []*kontikiv1.Operation{
		updateOp(jsonObject(configMaps, cm("a", `,"data":{"k":"2"}`))), patchOp("b", `{"data":{"k":"3"}}`), applyOp("applied", cm("applied", `,"data":{"k":"4"}`)), deleteOp("gone"), checkOp("none", ""),
	}}
	forAllREST := `{"fieldManager":"tests","operations":[{"update":` + inTx("a", `,"data":{"k":"2"}`) + `},` +
		`{"patch":{"apiVersion":"v1","kind":"ConfigMap","namespace":"default","name":"b","type":"merge","patch":{"data":{"k":"3"}}}},` +
		`{"apply":` + inTx("applied", `,"data":{"k":"4"}`) + `},{"delete":{"apiVersion":"v1","kind":"ConfigMap","namespace":"default","name":"gone"}},` +
		`{"check":{"apiVersion":"v1","kind":"ConfigMap","namespace":"default","name":"none"}}]}`
	steps := []step{
		{name: "a service account's token", as: "service account", method: "GET", path: cmPath + "/a", call: get(ref("a"), ""), code: codes.PermissionDenied},
		{name: "create a Secret", method: "POST", path: secrets, contentType: jsonType, body: secret, call: create(jsonObject(secretKind, secret), nil)},
		{name: "read a Secret", method: "GET", path: secrets + "/s", call: get(&kontikiv1.Reference{Kind: secretKind, Namespace: "default", Name: "s"}, "")},
		{name: "a Secret that lacks what its type needs", field: "object.data.data[tls.crt] object.data.data[tls.key]", method: "POST", path: secrets, contentType: jsonType, body: badSecret, call: create(jsonObject(secretKind, badSecret), nil), code: codes.InvalidArgument},
		{name: "change a Secret's type", field: "object.data.type", method: "PUT", path: secrets + "/s", contentType: jsonType, body: `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s"},"type":"x/y"}`,
			call: update(jsonObject(secretKind, `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s"},"type":"x/y"}`), "", nil), code: codes.InvalidArgument},
		{name: "create a Pod", method: "POST", path: pods, contentType: jsonType, body: pod, call: create(jsonObject(podKind, pod), nil)},
		{name: "change a Pod's status alone", method: "PUT", path: pods + "/p/status", contentType: jsonType, body: running, call: update(jsonObject(podKind, running), "status", nil)},
		{name: "move a Pod", field: "patch.spec", method: "PATCH", path: pods + "/p", contentType: mergePatch, body: moved, code: codes.InvalidArgument,
			call: func(ctx context.Context, api kontikiv1.ObjectsClient) ([]*kontikiv1.Object, []string, error) {
				r, err := api.Patch(ctx, &kontikiv1.PatchRequest{Reference: podRef, Type: kontikiv1.PatchType_PATCH_TYPE_MERGE, Patch: []byte(moved), Encoding: inJSON})
				return one(r.GetObject(), r.GetWarnings(), err)
			}},
		{name: "delete a Pod with grace", method: "DELETE", path: pods + "/p", call: removePod(nil)},
		{name: "delete a Pod with less grace", method: "DELETE", path: pods + "/p?gracePeriodSeconds=3", call: removePod(&kontikiv1.DeleteOptions{GracePeriodSeconds: ptr(int64(3))})},
		{name: "delete a Pod at once", method: "DELETE", path: pods + "/p?gracePeriodSeconds=0", call: removePod(&kontikiv1.DeleteOptions{GracePeriodSeconds: ptr(int64(0))})},
		{name: "create with a finalizer", method: "POST", path: cmPath, contentType: jsonType, body: held, call: create(jsonObject(configMaps, held), nil)},
		{name: "delete with another UID", field: "delete_options.uid", method: "DELETE", path: cmPath + "/held", contentType: jsonType, body: `{"preconditions":{"uid":"other"}}`, call: remove("held", &kontikiv1.DeleteOptions{Uid: "other"}, nil), code: codes.Aborted},
		{name: "delete what a finalizer holds", method: "DELETE", path: cmPath + "/held", call: remove("held", nil, nil)},
		{name: "take the finalizer off", method: "PATCH", path: cmPath + "/held", contentType: mergePatch, body: `{"metadata":{"finalizers":null}}`, call: patch("held", kontikiv1.PatchType_PATCH_TYPE_MERGE, `{"metadata":{"finalizers":null}}`, nil)},
		{name: "it is gone", method: "GET", path: cmPath + "/held", call: get(ref("held"), ""), code: codes.NotFound},
	}
	for _, name := range []string{"a", "b", "gone"} {
		steps = append(steps, step{name: "create " + name, method: "POST", path: cmPath, contentType: jsonType, body: cm(name, ""), call: create(jsonObject(configMaps, cm(name, "")), nil)})
	}
	return append(steps,
		step{name: "transact everything", method: "POST", path: transactions, contentType: jsonType, body: forAllREST, call: transactCall(forAll)},
		step{name: "transact it again", method: "POST", path: transactions, contentType: jsonType, body: forAllREST, call: transactCall(forAll), code: codes.NotFound}, // gone is gone
		step{name: "transact an update at a stale revision", field: "operations[0].update.object.data.metadata.resourceVersion", method: "POST", path: transactions, contentType: jsonType, body: `{"fieldManager":"tests","operations":[{"update":{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","namespace":"default","resourceVersion":"1"}}}]}`, code: codes.Aborted,
			call: transactCall(&kontikiv1.TransactRequest{Operations: []*kontikiv1.Operation{updateOp(jsonObject(configMaps, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","resourceVersion":"1"}}`))}})},
	)
}

func ptr[T any](v T) *T { return &v }

// TestFurtherRulesOfBothFronts is TestBothFrontsHaveTheSameRules for other kinds, subresources, deletions that take time, and all
// operations of transactions.
func TestFurtherRulesOfBothFronts(t *testing.T) {
	compareFronts(t, furtherSteps(), newFrontOver(t, harness.New(t)), newFrontOver(t, harness.New(t)))
}

// TestBothFrontsChooseNamesTheSameWay compares the generated names without their random parts.
func TestBothFrontsChooseNamesTheSameWay(t *testing.T) {
	f := newFrontOver(t, harness.New(t))
	body := `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"generateName":"g-"}}`
	s := step{method: "POST", path: cmPath, contentType: jsonType, body: body, call: create(jsonObject(configMaps, body), nil)}
	want := regexp.MustCompile(`^g-[a-z0-9]{5}$`)
	for front, a := range map[string]answer{"REST": f.rest(&s), "gRPC": f.grpc(&s)} {
		if len(a.objects) != 1 {
			t.Fatalf("%s answers %+v", front, a)
		}
		if name := a.objects[0].(map[string]any)["metadata"].(map[string]any)["name"].(string); !want.MatchString(name) {
			t.Errorf("%s chose %q", front, name)
		}
	}
}

// TestWatchesOfBothFrontsShowTheSame compares events byte for byte.
func TestWatchesOfBothFrontsShowTheSame(t *testing.T) {
	h := harness.New(t)
	conn := kontikiv1.NewObjectsClient(h.GRPC("admin", "system:masters"))
	from := fmt.Sprint(h.Store.View().Revision())
	ctx := deadline(t)
	store(t, h, "a", "1")
	store(t, h, "b", "1")
	for _, write := range []call{
		patch("a", kontikiv1.PatchType_PATCH_TYPE_MERGE, `{"metadata":{"labels":{"x":"y"}}}`, nil), // comes into the second selection
		patch("a", kontikiv1.PatchType_PATCH_TYPE_MERGE, `{"data":{"k":"2"}}`, nil),
		remove("b", nil, nil),
		patch("a", kontikiv1.PatchType_PATCH_TYPE_MERGE, `{"metadata":{"labels":{"x":null}}}`, nil), // and leaves it
	} {
		if _, _, err := write(ctx, conn); err != nil {
			t.Fatal(err)
		}
	}
	client, err := clientrest.HTTPClientFor(h.Config("admin", "system:masters"))
	if err != nil {
		t.Fatal(err)
	}
	for selector, events := range map[string]int{"": 6, "x=y": 3} {
		stream, err := conn.Watch(ctx, &kontikiv1.WatchRequest{Kind: configMaps, Namespace: "default", ResourceVersion: from, LabelSelector: selector, Encoding: kontikiv1.Encoding_ENCODING_JSON})
		if err != nil {
			t.Fatal(err)
		}
		request, err := http.NewRequestWithContext(ctx, "GET", h.Config("x").Host+cmPath+"?watch=1&resourceVersion="+from+"&labelSelector="+selector, nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		lines := bufio.NewReader(response.Body)
		for i := range events {
			event := next(t, stream)
			line, err := lines.ReadBytes('\n')
			if err != nil {
				t.Fatal(err)
			}
			var shown struct {
				Type   string
				Object json.RawMessage
			}
			if err := json.Unmarshal(line, &shown); err != nil {
				t.Fatal(err)
			}
			if "TYPE_"+shown.Type != event.Type.String() || string(shown.Object) != string(event.Object.Data) {
				t.Errorf("%q, event %d: REST shows %s, gRPC %v", selector, i, line, event)
			}
		}
	}
}

func TestConflictsCarryThePresentRevision(t *testing.T) {
	h := harness.New(t)
	conn := kontikiv1.NewObjectsClient(h.GRPC("admin", "system:masters"))
	ctx := deadline(t)
	store(t, h, "a", "1")
	store(t, h, "b", "1") // so that the store's revision is not the object's
	now, err := conn.Get(ctx, &kontikiv1.GetRequest{Reference: ref("a")})
	if err != nil {
		t.Fatal(err)
	}
	stale := `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","resourceVersion":"1"}}`
	for name, write := range map[string]call{
		"update":                update(jsonObject(configMaps, stale), "", nil),
		"patch":                 patch("a", kontikiv1.PatchType_PATCH_TYPE_MERGE, stale, nil),
		"delete":                remove("a", &kontikiv1.DeleteOptions{ResourceVersion: "1"}, nil),
		"delete another":        remove("a", &kontikiv1.DeleteOptions{Uid: "other"}, nil),
		"check":                 transactCall(&kontikiv1.TransactRequest{Operations: []*kontikiv1.Operation{checkOp("none", ""), checkOp("a", "1")}}),
		"update, in one of two": transactCall(&kontikiv1.TransactRequest{Operations: []*kontikiv1.Operation{patchOp("b", `{}`), updateOp(jsonObject(configMaps, stale))}}),
	} {
		_, _, err := write(ctx, conn)
		wantCode(t, err, codes.Aborted)
		found := ""
		for _, detail := range status.Convert(err).Details() {
			if d, ok := detail.(*kontikiv1.ConflictDetail); ok {
				found = d.ResourceVersion
			}
		}
		if found != now.Object.ResourceVersion {
			t.Errorf("%s: the conflict names revision %q, the object is at %s", name, found, now.Object.ResourceVersion)
		}
	}
}
