package rpc_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"

	"github.com/kontiki/kontiki/api/apiserver"
	"github.com/kontiki/kontiki/api/audit"
	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/internal/kv"
	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
	"github.com/kontiki/kontiki/test/harness"
)

// audited is an API with an audit log that has a policy.
func audited(t *testing.T, policy string) *front {
	log := newAuditLog(t, policy)
	f := newFrontOver(t, harness.NewConfigured(t, func(c *apiserver.Config) { c.Audit = log.auditor }))
	f.log = log
	return f
}

const (
	hidden      = "hunter2-hunter2" // what must not be in a log
	secretsPath = "/api/v1/namespaces/default/secrets"
)

var secrets = &kontikiv1.Kind{Version: "v1", Kind: "Secret"}

func secret(name string) string {
	return fmt.Sprintf(`{"apiVersion":"v1","kind":"Secret","metadata":{"name":%q,"namespace":"default"},"data":{"password":%q}}`, name, base64.StdEncoding.EncodeToString([]byte(hidden)))
}

func secretRef(name string) *kontikiv1.Reference {
	return &kontikiv1.Reference{Kind: secrets, Namespace: "default", Name: name}
}

// handling are all operations on a Secret, by each front.
func handling() []step {
	patched := `{"stringData":{"password":"` + hidden + `"}}`
	return []step{
		{name: "create", method: "POST", path: secretsPath, contentType: jsonType, body: secret("s"), call: create(jsonObject(secrets, secret("s")), nil)},
		{name: "get", method: "GET", path: secretsPath + "/s", call: get(secretRef("s"), "")},
		{name: "list", method: "GET", path: secretsPath, call: list(&kontikiv1.ListRequest{Kind: secrets, Namespace: "default"})},
		{name: "update", method: "PUT", path: secretsPath + "/s", contentType: jsonType, body: secret("s"), call: update(jsonObject(secrets, secret("s")), "", nil)},
		{name: "patch", method: "PATCH", path: secretsPath + "/s", contentType: mergePatch, body: patched, call: func(ctx context.Context, api kontikiv1.ObjectsClient) ([]*kontikiv1.Object, []string, error) {
			r, err := api.Patch(ctx, &kontikiv1.PatchRequest{Reference: secretRef("s"), Type: kontikiv1.PatchType_PATCH_TYPE_MERGE, Patch: []byte(patched), Encoding: kontikiv1.Encoding_ENCODING_JSON})
			return one(r.GetObject(), nil, err)
		}},
		{name: "apply", method: "PATCH", path: secretsPath + "/s?fieldManager=m&force=true", contentType: applyPatch, body: secret("s"), call: func(ctx context.Context, api kontikiv1.ObjectsClient) ([]*kontikiv1.Object, []string, error) {
			r, err := api.Apply(ctx, &kontikiv1.ApplyRequest{Reference: secretRef("s"), Configuration: []byte(secret("s")), Force: true, Options: &kontikiv1.WriteOptions{FieldManager: "m"}, Encoding: kontikiv1.Encoding_ENCODING_JSON})
			return one(r.GetObject(), nil, err)
		}},
		{name: "transact", method: "POST", path: transactions, contentType: jsonType, body: tx(`{"create":` + secret("t") + `}`), call: transactCall(&kontikiv1.TransactRequest{Operations: []*kontikiv1.Operation{createOp(jsonObject(secrets, secret("t")))}})},
		{name: "delete", method: "DELETE", path: secretsPath + "/s", call: func(ctx context.Context, api kontikiv1.ObjectsClient) ([]*kontikiv1.Object, []string, error) {
			_, err := api.Delete(ctx, &kontikiv1.DeleteRequest{Reference: secretRef("s")})
			return nil, nil, err
		}},
		{name: "delete all", method: "DELETE", path: secretsPath, call: func(ctx context.Context, api kontikiv1.ObjectsClient) ([]*kontikiv1.Object, []string, error) {
			_, err := api.DeleteCollection(ctx, &kontikiv1.DeleteCollectionRequest{Kind: secrets, Namespace: "default"})
			return nil, nil, err
		}},
	}
}

func TestASecretsContentIsRecordedOnlyIfThePolicySaysSo(t *testing.T) {
	for _, c := range []struct {
		name, policy string
		want         bool
	}{
		{"metadata of Secrets", "rules: [{level: Metadata, resources: [{resources: [secrets]}]}, {level: RequestResponse}]", false},
		{"everything", everything, true},
		{"requests", "rules: [{level: Request}]", true},
	} {
		for _, front := range []string{"REST", "gRPC"} {
			t.Run(c.name+" by "+front, func(t *testing.T) {
				f := audited(t, c.policy)
				for _, s := range handling() {
					if front == "REST" {
						if a := f.rest(&s); a.status.Status == metav1.StatusFailure {
							t.Errorf("%s: %+v", s.name, a.status)
						}
					} else {
						f.grpc(&s)
					}
					events := f.log.next(t)
					last := events[len(events)-1]
					if s.name == "transact" {
						last = events[1] // the operation's
					}
					if last.ObjectRef == nil || last.ObjectRef.Resource != "secrets" || last.ObjectRef.Namespace != "default" || last.User.Username != "admin" {
						t.Errorf("%s: recorded %+v", s.name, last)
					}
				}
				data, err := os.ReadFile(f.log.path)
				if err != nil {
					t.Fatal(err)
				}
				got := strings.Contains(string(data), hidden) || strings.Contains(string(data), base64.StdEncoding.EncodeToString([]byte(hidden)))
				if got != c.want {
					t.Errorf("the content is recorded: %v, want %v\n%s", got, c.want, data)
				}
			})
		}
	}
}

func TestATokenIsRecordedOnlyIfThePolicySaysSo(t *testing.T) {
	for policy, want := range map[string]bool{"rules: [{level: Request}]": false, everything: true} {
		f := audited(t, policy)
		token, err := f.h.Clientset().CoreV1().ServiceAccounts("default").CreateToken(context.Background(), "default", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(f.log.path)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(string(data), token.Status.Token); got != want {
			t.Errorf("%s: the token is recorded: %v", policy, got)
		}
		events := f.log.next(t)
		if last := events[len(events)-1]; last.ObjectRef.Subresource != "token" || last.ObjectRef.Name != "default" || last.ResponseStatus.Code != http.StatusCreated {
			t.Errorf("%s: recorded %+v", policy, last)
		}
	}
}

func TestEachOperationOfATransactionHasItsOwnLevel(t *testing.T) {
	const policy = `rules:
- {level: None, nonResourceURLs: [/kontiki/v1/transactions]}
- {level: Metadata, resources: [{resources: [secrets]}]}
- {level: RequestResponse, resources: [{resources: [configmaps]}]}
`
	operations := []string{`{"create":` + secret("t") + `}`, txCM("c"), txCheck("none", "")}
	messages := []*kontikiv1.Operation{createOp(jsonObject(secrets, secret("t"))), createOp(jsonObject(configMaps, cm("c", ""))), checkOp("none", "")}
	s := step{as: "", method: "POST", path: transactions, contentType: jsonType, body: tx(operations...), call: transactCall(&kontikiv1.TransactRequest{Operations: messages})}
	again := s
	again.code = codes.AlreadyExists
	for _, front := range []string{"REST", "gRPC"} {
		f := audited(t, policy)
		send := f.rest
		if front == "gRPC" {
			send = f.grpc
		}
		send(&s)
		events := f.log.next(t)
		if len(events) != 3 {
			t.Fatalf("%s recorded %s", front, brief(events))
		}
		for i, want := range []struct {
			resource, name, verb string
			level                auditv1.Level
			code                 int32
			content              bool
		}{
			{"secrets", "t", "create", auditv1.LevelMetadata, http.StatusCreated, false},
			{"configmaps", "c", "create", auditv1.LevelRequestResponse, http.StatusCreated, true},
			{"configmaps", "none", "get", auditv1.LevelRequestResponse, http.StatusOK, false},
		} {
			e := events[i]
			if e.Stage != auditv1.StageResponseComplete || e.ObjectRef.Resource != want.resource || e.ObjectRef.Name != want.name || e.Verb != want.verb || e.Level != want.level ||
				e.ResponseStatus.Code != want.code || (e.RequestObject != nil) != want.content || (e.ResponseObject != nil) != want.content ||
				e.Annotations[audit.OperationAnnotation] != fmt.Sprint(i) || e.Annotations[audit.DecisionAnnotation] != "allow" || e.AuditID != events[0].AuditID {
				t.Errorf("%s recorded %+v, want %+v", front, e, want)
			}
		}
		// The events of operations that were not carried out show this, whichever operation failed.
		send(&again)
		for _, e := range f.log.next(t) {
			if e.ResponseStatus.Code != http.StatusConflict || e.ResponseStatus.Status != metav1.StatusFailure {
				t.Errorf("%s recorded %+v", front, e.ResponseStatus)
			}
		}
	}
}

// TestNobodyChoosesTheirRuleByTheFormOfAMessage omits the fields that an audit rule matches, which are then in the object's data
// only.
func TestNobodyChoosesTheirRuleByTheFormOfAMessage(t *testing.T) {
	f := audited(t, "omitStages: [RequestReceived]\nrules: [{level: Metadata, resources: [{resources: [configmaps], resourceNames: [a]}]}, {level: Request, namespaces: [default], verbs: [create]}]")
	ctx, api := deadline(t), f.conn[""]
	raw := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "a"}}
	if _, err := api.Create(ctx, &kontikiv1.CreateRequest{Object: object(t, configMaps, raw)}); err != nil {
		t.Fatal(err)
	}
	data := `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"namespace":"default","name":"a"},"data":{"k":"2"}}`
	if _, err := api.Update(ctx, &kontikiv1.UpdateRequest{Object: &kontikiv1.Object{Kind: configMaps, Encoding: kontikiv1.Encoding_ENCODING_JSON, Data: []byte(data)}}); err != nil {
		t.Fatal(err)
	}
	raw.Data = map[string]string{"k": "3"}
	if _, err := api.Update(ctx, &kontikiv1.UpdateRequest{Object: object(t, configMaps, raw)}); err != nil {
		t.Fatal(err)
	}
	events := f.log.next(t)
	if len(events) != 3 || events[0].Level != auditv1.LevelRequest || events[1].Level != auditv1.LevelMetadata || events[2].Level != auditv1.LevelMetadata {
		t.Errorf("recorded %s", brief(events))
	}
}

func TestAWatchIsRecordedWhenItBeginsAndWhenItEnds(t *testing.T) {
	f := audited(t, everything)
	ended := map[string][]auditv1.Event{}
	collect := func(name string) {
		await(t, "the watch ends", func() bool {
			ended[name] = append(ended[name], f.log.next(t)...)
			return len(ended[name]) == 3
		})
	}
	stages := func(events []auditv1.Event) (out []string) {
		for _, e := range events {
			out = append(out, string(e.Stage))
			if e.Verb != "watch" || e.ObjectRef.Resource != "configmaps" || e.ObjectRef.Namespace != "default" {
				t.Errorf("recorded %+v", e)
			}
			if e.Stage != auditv1.StageRequestReceived && (e.ResponseStatus.Code != http.StatusOK || e.ResponseObject != nil) {
				t.Errorf("recorded %+v", e)
			}
		}
		return out
	}
	want := []string{"RequestReceived", "ResponseStarted", "ResponseComplete"}

	ctx, cancel := context.WithCancel(deadline(t))
	request, err := http.NewRequestWithContext(ctx, "GET", f.h.Config("x").Host+cmPath+"?watch=1", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := f.http[""].Do(request)
	if err != nil {
		t.Fatal(err)
	}
	ended["REST"] = f.log.next(t)
	if got := stages(ended["REST"]); !slices.Equal(got, want[:2]) {
		t.Errorf("REST recorded %v while the watch goes on", got)
	}
	cancel()
	response.Body.Close()
	collect("REST")

	ctx, cancel = context.WithCancel(deadline(t))
	stream, err := f.conn[""].Watch(ctx, &kontikiv1.WatchRequest{Kind: configMaps, Namespace: "default"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Header(); err != nil {
		t.Fatal(err)
	}
	ended["gRPC"] = f.log.next(t)
	if got := stages(ended["gRPC"]); !slices.Equal(got, want[:2]) {
		t.Errorf("gRPC recorded %v while the watch goes on", got)
	}
	cancel()
	collect("gRPC")
	for name, events := range ended {
		if got := stages(events); !slices.Equal(got, want) {
			t.Errorf("%s recorded %v", name, got)
		}
	}
}

func TestTheAuditIDIsTakenAndReturned(t *testing.T) {
	f := audited(t, "omitStages: [RequestReceived]\nrules: [{level: Metadata}]")
	const header = "Audit-ID"
	for _, given := range []string{"", "4711-abc"} {
		request, err := http.NewRequest("GET", f.h.Config("x").Host+cmPath, nil)
		if err != nil {
			t.Fatal(err)
		}
		ctx := deadline(t)
		if given != "" {
			request.Header.Set(header, given)
			ctx = metadata.AppendToOutgoingContext(ctx, header, given)
		}
		response, err := f.http[""].Do(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		var answered metadata.MD
		_, err = f.conn[""].Get(ctx, &kontikiv1.GetRequest{Reference: ref("none")}, grpc.Header(&answered))
		wantCode(t, err, codes.NotFound)
		events := f.log.next(t)
		if len(events) != 2 || len(answered.Get(header)) != 1 {
			t.Fatalf("recorded %s, gRPC answered %v", brief(events), answered)
		}
		for i, got := range []string{response.Header.Get(header), answered.Get(header)[0]} {
			if got == "" || got != string(events[i].AuditID) || given != "" && got != given {
				t.Errorf("answered %q for %q, recorded %q", got, given, events[i].AuditID)
			}
		}
	}
}

// panicking is a store that panics on linearizable reads.
type panicking struct{ objects.Store }

func (panicking) Consistent(context.Context) (kv.View, error) { panic("the store is broken") }

func TestAPanicIsRecorded(t *testing.T) {
	log := newAuditLog(t, "omitStages: [RequestReceived]\nrules: [{level: Metadata}]")
	f := newFrontOver(t, harness.NewConfigured(t, func(c *apiserver.Config) { c.Audit, c.Store = log.auditor, panicking{c.Store} }))
	s := step{method: "GET", path: cmPath + "/a", call: get(ref("a"), ""), code: codes.Internal}
	f.rest(&s)
	f.grpc(&s)
	events := log.next(t)
	if len(events) != 2 {
		t.Fatalf("recorded %s", brief(events))
	}
	for _, e := range events {
		if e.Stage != auditv1.StagePanic || e.ResponseStatus.Code != http.StatusInternalServerError || e.ResponseStatus.Message != "APIServer panic'd: the store is broken" ||
			e.ObjectRef.Name != "a" || e.Annotations[audit.DecisionAnnotation] != "allow" {
			t.Errorf("recorded %+v", e)
		}
	}
}

func TestACredentialThatDoesNotHoldIsRecorded(t *testing.T) {
	f := audited(t, "rules: [{level: Metadata}]")
	s := step{as: "bad token", method: "GET", path: cmPath + "/a", call: get(ref("a"), ""), code: codes.Unauthenticated}
	f.rest(&s)
	f.grpc(&s)
	events := f.log.next(t)
	if len(events) != 2 {
		t.Fatalf("recorded %s", brief(events))
	}
	for i, uri := range []string{cmPath + "/a", "/kontiki.v1.Objects/Get"} {
		e := events[i]
		if e.Stage != auditv1.StageResponseStarted || e.ResponseStatus.Code != http.StatusUnauthorized || e.User.Username != "" || e.Verb != "get" || e.RequestURI != uri || len(e.SourceIPs) != 1 {
			t.Errorf("recorded %+v", e)
		}
	}
}

func TestManagedFieldsAreLeftOutIfThePolicySaysSo(t *testing.T) {
	for policy, want := range map[string]bool{"omitManagedFields: true\n" + everything: false, everything: true} {
		f := audited(t, policy)
		for _, s := range handling() {
			f.rest(&s)
		}
		for _, s := range handling() {
			f.grpc(&s)
		}
		data, err := os.ReadFile(f.log.path)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(string(data), "managedFields"); got != want {
			t.Errorf("%q: managed fields are recorded: %v", policy, got)
		}
	}
}

func TestCallsThatConcernNoObjectAreRecordedByTheirPath(t *testing.T) {
	f := audited(t, "omitStages: [RequestReceived]\nrules: [{level: None, nonResourceURLs: [/healthz]}, {level: Metadata}]")
	conn := f.h.GRPC("joe", "devs")
	ctx := deadline(t)
	for method, want := range map[string]struct {
		verb, decision string
		code           int32
	}{
		"/kontiki.v1.Cluster/CreateToken": {"post", "forbid", http.StatusForbidden},
		"/kontiki.v1.Objects/None":        {"post", "", http.StatusNotImplemented},
		"/none/none":                      {"post", "", http.StatusNotImplemented},
	} {
		conn.Invoke(ctx, method, &kontikiv1.StatusRequest{}, &kontikiv1.StatusResponse{}) // what it answers is tested elsewhere
		events := f.log.next(t)
		if len(events) != 1 {
			t.Errorf("%s: recorded %s", method, brief(events))
			continue
		}
		e := events[0]
		if e.Verb != want.verb || e.RequestURI != method || e.ObjectRef != nil || e.ResponseStatus.Code != want.code || e.Annotations[audit.DecisionAnnotation] != want.decision {
			t.Errorf("%s: recorded %+v %+v", method, e, e.ResponseStatus)
		}
	}
	l := limited{front: f}
	l.healthy(t)
	for _, e := range f.log.next(t) {
		if strings.HasPrefix(e.RequestURI, "/healthz") || strings.Contains(e.RequestURI, "grpc.health") {
			t.Errorf("recorded %+v", e)
		}
	}
}

func TestRequestsAreCounted(t *testing.T) {
	f := audited(t, "rules: [{level: None, verbs: [list]}, {level: Metadata}]")
	before := counters(t, f.log.auditor)
	for _, s := range []step{{method: "GET", path: cmPath}, {method: "GET", path: cmPath + "/none"}} {
		f.rest(&s)
	}
	after := counters(t, f.log.auditor)
	for name, want := range map[string]map[string]float64{
		"apiserver_audit_event_total": {"": 2}, "apiserver_audit_error_total": {"log": 0}, "apiserver_audit_level_total": {"None": 1, "Metadata": 1},
	} {
		for label, n := range want {
			if got := after[name][label] - before[name][label]; got != n {
				t.Errorf("%s{%s} grew by %v, want %v", name, label, got, n)
			}
		}
	}
}

func TestAFullDiskOfTheAuditLogDoesNotTakeTheAPIDown(t *testing.T) {
	log := newAuditLogAt(t, "rules: [{level: Metadata}]", "/dev/full") // every write to it finds no space
	f := newFrontOver(t, harness.NewConfigured(t, func(c *apiserver.Config) { c.Audit = log.auditor }))
	for _, s := range []step{
		{name: "create", method: "POST", path: cmPath, contentType: jsonType, body: cm("r", ""), call: create(jsonObject(configMaps, cm("g", "")), nil)},
		{name: "get", method: "GET", path: cmPath + "/r", call: get(ref("g"), "")},
	} {
		if a := f.rest(&s); a.status.Status == metav1.StatusFailure {
			t.Errorf("%s: %+v", s.name, a.status)
		}
		f.grpc(&s)
	}
	// Two stages for each of four requests.
	if got := counters(t, log.auditor); got["apiserver_audit_error_total"]["log"] != 8 || got["apiserver_audit_event_total"][""] != 8 {
		t.Errorf("counted %v", got)
	}
}

func TestEventsOfManyRequestsAtOnceAreAllThere(t *testing.T) {
	f := audited(t, "omitStages: [RequestReceived]\nrules: [{level: RequestResponse}]")
	const clients, requests = 8, 20
	var all sync.WaitGroup
	for i := range clients {
		all.Go(func() {
			for j := range requests {
				name := fmt.Sprintf("c%d-%d", i, j)
				if _, err := f.conn[""].Create(context.Background(), &kontikiv1.CreateRequest{Object: configMap(t, name, nil)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	seen := map[string]bool{}
	for _, e := range f.log.next(t) {
		seen[e.ObjectRef.Name] = e.ResponseStatus.Code == http.StatusCreated && strings.Contains(string(e.RequestObject.Raw), e.ObjectRef.Name)
	}
	for i := range clients {
		for j := range requests {
			if !seen[fmt.Sprintf("c%d-%d", i, j)] {
				t.Errorf("the event of c%d-%d is not there", i, j)
			}
		}
	}
}

func TestAListOfOneNameIsAboutThatName(t *testing.T) {
	f := audited(t, "omitStages: [RequestReceived]\nrules: [{level: Metadata, resources: [{resources: [secrets], resourceNames: [s]}]}]")
	for selector, recorded := range map[string]bool{"metadata.name=s": true, "metadata.name=s,metadata.namespace=default": true, "metadata.name!=s": false, "metadata.name=t": false, "": false, "metadata.name=s,": true, "metadata.name": false} {
		s := step{method: "GET", path: secretsPath + "?fieldSelector=" + url.QueryEscape(selector), call: list(&kontikiv1.ListRequest{Kind: secrets, Namespace: "default", FieldSelector: selector})}
		if selector == "metadata.name" {
			s.code = codes.InvalidArgument
		}
		f.rest(&s)
		byREST := f.log.next(t)
		f.grpc(&s)
		byRPC := f.log.next(t)
		for front, events := range map[string][]auditv1.Event{"REST": byREST, "gRPC": byRPC} {
			if (len(events) == 1) != recorded || recorded && events[0].ObjectRef.Name != "s" {
				t.Errorf("%q by %s: recorded %s", selector, front, brief(events))
			}
		}
	}
}
