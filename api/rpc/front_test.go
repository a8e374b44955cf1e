package rpc_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientrest "k8s.io/client-go/rest"

	"github.com/kontiki/kontiki/api/apiserver"
	"github.com/kontiki/kontiki/api/auth"
	"github.com/kontiki/kontiki/internal/kv"
	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
	"github.com/kontiki/kontiki/test/harness"
)

// answer is the response of a front: a Status, or objects with warnings.
type answer struct {
	status   metav1.Status
	fields   []string // of the message, that the error is about
	objects  []any    // as JSON, in order
	warnings []string
}

// step is one request, in both forms.
type step struct {
	name string
	// as is the user who sends it: an administrator, or "joe", "anonymous", "bad token", "service account".
	as string
	// method, path, contentType and body are the REST form. A path "restPath" returns a list of items.
	method, path, contentType, body string
	// call is the gRPC form.
	call func(ctx context.Context, api kontikiv1.ObjectsClient) ([]*kontikiv1.Object, []string, error)
	// code is the expected code.
	code codes.Code
	// own is the message of gRPC where it differs from REST, which can only name paths; "" means that the Status is equal.
	own string
	// field is the field that the gRPC error names, if any; several are in order, separated by spaces.
	field string
	// unread calls are rejected before gRPC has decoded the names in them, so that their audit events lack these; in REST they are
	// in the path.
	unread bool
}

// front sends steps to one harness.
type front struct {
	t    *testing.T
	h    *harness.Harness
	log  *auditLog // nil where nothing is recorded
	http map[string]*http.Client
	conn map[string]kontikiv1.ObjectsClient
}

func newFront(t *testing.T) *front {
	log := newAuditLog(t, everything)
	f := newFrontOver(t, harness.NewConfigured(t, func(c *apiserver.Config) { c.Audit = log.auditor }))
	f.log = log
	return f
}

func newFrontOver(t *testing.T, h *harness.Harness) *front {
	f := &front{t: t, h: h, http: map[string]*http.Client{}, conn: map[string]kontikiv1.ObjectsClient{}}
	for name, user := range map[string][]string{"": {"admin", "system:masters"}, "joe": {"joe", "devs"}} {
		config := f.h.Config(user[0], user[1:]...)
		client, err := clientrest.HTTPClientFor(config)
		if err != nil {
			t.Fatal(err)
		}
		f.http[name], f.conn[name] = client, kontikiv1.NewObjectsClient(f.h.GRPC(user[0], user[1:]...))
	}
	f.http["anonymous"] = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	f.conn["anonymous"] = kontikiv1.NewObjectsClient(f.h.GRPC(""))
	f.http["bad token"], f.conn["bad token"] = f.http["anonymous"], f.conn["anonymous"]
	f.http["service account"], f.conn["service account"] = f.http["anonymous"], f.conn["anonymous"]
	f.http["as nobody"], f.conn["as nobody"] = f.http[""], f.conn[""]
	f.http["joe as admin"], f.conn["joe as admin"] = f.http["joe"], f.conn["joe"]
	return f
}

// further is a header that is sent with the user's credentials.
func (f *front) further(as string) []string {
	switch as {
	case "bad token":
		return []string{"Authorization", "Bearer abc"}
	case "as nobody":
		return []string{"Impersonate-User", "nobody"}
	case "joe as admin":
		return []string{"Impersonate-User", "admin"}
	case "service account":
		accounts, _ := f.h.Objects.Kinds().ByGroupResource("", "serviceaccounts")
		v, ok := f.h.Store.View().Get(accounts.Key("default", "default"))
		if !ok {
			f.t.Fatal("there is no service account")
		}
		account, err := f.h.Objects.Decode(accounts, v)
		if err != nil {
			f.t.Fatal(err)
		}
		token, _, err := f.h.Tokens.Issue(auth.Binding{Namespace: "default", ServiceAccount: "default", ServiceAccountUID: string(account.(metav1.Object).GetUID())}, nil, 0)
		if err != nil {
			f.t.Fatal(err)
		}
		return []string{"Authorization", "Bearer " + token}
	}
	return nil
}

func (f *front) rest(s *step) (a answer) {
	t := f.t
	request, err := http.NewRequest(s.method, f.h.Config("x").Host+s.path, strings.NewReader(s.body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("User-Agent", "harness/1")
	if s.contentType != "" {
		request.Header.Set("Content-Type", s.contentType)
	}
	if h := f.further(s.as); h != nil {
		request.Header.Set(h[0], h[1])
	}
	response, err := f.http[s.as].Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode >= 300 {
		if err := json.Unmarshal(body, &a.status); err != nil {
			t.Fatalf("%v: %s", err, body)
		}
		return a
	}
	for _, w := range response.Header.Values("Warning") {
		text := strings.TrimSuffix(strings.TrimPrefix(w, `299 - "`), `"`)
		a.warnings = append(a.warnings, strings.ReplaceAll(text, `\"`, `"`))
	}
	var answered map[string]any
	if err := json.Unmarshal(body, &answered); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	switch {
	case answered["kind"] == "Status":
	case answered["items"] != nil:
		for _, item := range answered["items"].([]any) {
			fields := item.(map[string]any)
			fields["kind"], fields["apiVersion"] = strings.TrimSuffix(answered["kind"].(string), "List"), answered["apiVersion"]
			a.objects = append(a.objects, normal(fields))
		}
	case answered["results"] != nil:
		for _, result := range answered["results"].([]any) {
			if obj, ok := result.(map[string]any)["object"]; ok {
				a.objects = append(a.objects, normal(obj))
			}
		}
	default:
		a.objects = []any{normal(answered)}
	}
	return a
}

func (f *front) grpc(s *step) (a answer) {
	t := f.t
	ctx := deadline(t)
	if h := f.further(s.as); h != nil {
		ctx = metadata.AppendToOutgoingContext(ctx, h[0], h[1])
	}
	objects, warnings, err := s.call(ctx, f.conn[s.as])
	a.warnings = warnings
	if status.Code(err) != s.code {
		t.Errorf("gRPC answers %v, want %v", err, s.code)
	}
	if err != nil {
		a.status, a.fields = statusIn(t, err)
		return a
	}
	for _, o := range objects {
		var fields any
		if o.Encoding == kontikiv1.Encoding_ENCODING_JSON {
			if err := json.Unmarshal(o.Data, &fields); err != nil {
				t.Fatal(err)
			}
		} else {
			obj := decoded(t, o)
			obj.Kind, obj.APIVersion = "ConfigMap", "v1"
			raw, err := json.Marshal(obj)
			if err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(raw, &fields); err != nil {
				t.Fatal(err)
			}
		}
		a.objects = append(a.objects, normal(fields))
	}
	return a
}

// normal is an object without random values and times.
func normal(obj any) any {
	meta, _ := obj.(map[string]any)["metadata"].(map[string]any)
	delete(meta, "uid")
	delete(meta, "creationTimestamp")
	if meta["deletionTimestamp"] != nil {
		meta["deletionTimestamp"] = "some time"
	}
	managed, _ := meta["managedFields"].([]any)
	for _, m := range managed {
		delete(m.(map[string]any), "time")
	}
	return obj
}

// dump returns everything that a harness has stored, normalized.
func dump(t *testing.T, h *harness.Harness) (out []any) {
	t.Helper()
	for _, kind := range h.Objects.Kinds().Kinds() {
		if kind.StoredAs != nil {
			continue
		}
		h.Store.View().Range(kind.Prefix(), kv.PrefixEnd(kind.Prefix()), func(v *kv.Version) bool {
			raw, err := h.Objects.JSON(kind, v)
			if err != nil {
				t.Fatal(err)
			}
			var fields any
			if err := json.Unmarshal(raw, &fields); err != nil {
				t.Fatal(err)
			}
			out = append(out, normal(fields))
			return true
		})
	}
	return out
}
