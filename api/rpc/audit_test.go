package rpc_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"

	"github.com/kontiki/kontiki/api/audit"
)

// everything is a policy that records everything about each request.
const everything = "rules: [{level: RequestResponse}]"

// auditLog is an audit log that a test reads.
type auditLog struct {
	auditor *audit.Auditor
	path    string
	read    int
}

func newAuditLog(t testing.TB, policy string) *auditLog {
	t.Helper()
	return newAuditLogAt(t, policy, filepath.Join(t.TempDir(), "audit.log"))
}

func newAuditLogAt(t testing.TB, policy, path string) *auditLog {
	t.Helper()
	l := &auditLog{path: path}
	file := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(file, []byte("apiVersion: audit.k8s.io/v1\nkind: Policy\n"+policy), 0o600); err != nil {
		t.Fatal(err)
	}
	var err error
	if l.auditor, err = audit.New(audit.Config{PolicyFile: file, LogPath: l.path, Mode: audit.ModeBlocking}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.auditor.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// next returns the events since the last call. Those of a request are there once its client has the whole response.
func (l *auditLog) next(t testing.TB) (events []auditv1.Event) {
	t.Helper()
	data, err := os.ReadFile(l.path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data[l.read:])) {
		var e auditv1.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		events = append(events, e)
	}
	l.read = len(data)
	return events
}

// normalEvent is an event without random values, times and what differs between the fronts.
func normalEvent(t *testing.T, s *step, e auditv1.Event) map[string]any {
	t.Helper()
	raw, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(raw, &out); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"auditID", "requestURI", "requestReceivedTimestamp", "stageTimestamp"} {
		if out[name] == "" {
			t.Errorf("%s is missing in %s", name, raw)
		}
		delete(out, name)
	}
	// Each client has a certificate of its own.
	if id := e.User.Extra["authentication.kubernetes.io/credential-id"]; len(id) == 1 && strings.HasPrefix(id[0], "X509SHA256=") {
		delete(out["user"].(map[string]any), "extra")
	} else if name := e.User.Username; name != "" && name != "system:anonymous" {
		t.Errorf("the certificate is missing in %s", raw)
	}
	out["userAgent"], _, _ = strings.Cut(out["userAgent"].(string), " ") // gRPC libraries add themselves
	if reference, ok := out["objectRef"].(map[string]any); ok {
		delete(reference, "uid")
	}
	succeeded := e.ResponseStatus != nil && e.ResponseStatus.Code < 300
	if status, ok := out["responseStatus"].(map[string]any); ok && succeeded {
		if details, ok := status["details"].(map[string]any); ok {
			delete(details, "uid")
		}
	}
	if object, ok := out["responseObject"].(map[string]any); ok {
		normal(object)
		items, _ := object["items"].([]any)
		for _, item := range items {
			normal(item)
		}
		if e.Verb == "delete" && succeeded {
			delete(out, "responseObject") // a Status in REST, the object that is gone in gRPC
		}
	}
	if object, ok := out["requestObject"].(map[string]any); ok && e.Annotations[audit.OperationAnnotation] != "" {
		delete(object["metadata"].(map[string]any), "namespace") // which a REST transaction has there and nowhere else
	}
	if s.own != "" {
		for _, name := range []string{"requestObject", "responseStatus", "responseObject"} {
			delete(out, name)
		}
	}
	if s.unread {
		for _, name := range []string{"objectRef", "annotations", "responseStatus", "responseObject"} {
			delete(out, name)
		}
	}
	return out
}

// compareEvents compares the events that two fronts have recorded for a step.
func compareEvents(t *testing.T, s *step, byREST, byRPC []auditv1.Event) {
	t.Helper()
	if len(byREST) == 0 || len(byREST) != len(byRPC) {
		t.Errorf("REST recorded %s\ngRPC %s", brief(byREST), brief(byRPC))
		return
	}
	for i := range byREST {
		want, got := normalEvent(t, s, byREST[i]), normalEvent(t, s, byRPC[i])
		if !reflect.DeepEqual(want, got) {
			t.Errorf("event %d: REST recorded\n%v\ngRPC\n%v", i, want, got)
		}
		if byREST[i].AuditID != byREST[0].AuditID || byRPC[i].AuditID != byRPC[0].AuditID {
			t.Errorf("event %d has an ID of its own", i)
		}
	}
}

func brief(events []auditv1.Event) string {
	var out strings.Builder
	for _, e := range events {
		fmt.Fprintf(&out, "[%s %s %s]", e.Stage, e.Verb, e.RequestURI)
	}
	return out.String()
}
