package audit

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
)

// agrees compares an event's line with the output of encoding/json for it.
func agrees(t *testing.T, e *auditv1.Event) {
	t.Helper()
	want, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	got, err := appendEvent(nil, e)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want)+"\n" || strings.Count(string(got), "\n") != 1 {
		t.Errorf("wrote\n%sencoding/json\n%s", got, want)
	}
}

func TestEventsAreEncodedAsEncodingJSONDoes(t *testing.T) {
	agrees(t, &auditv1.Event{TypeMeta: metav1.TypeMeta{Kind: "Event", APIVersion: "audit.k8s.io/v1"}})
	for name, change := range map[string]func(*auditv1.Event){
		"as it is":     func(*auditv1.Event) {},
		"empty status": func(e *auditv1.Event) { e.ResponseStatus = &metav1.Status{} },
		"a failure": func(e *auditv1.Event) {
			e.ResponseStatus = &metav1.Status{Status: "Failure", Message: `configmaps "a" not found`, Reason: "NotFound", Code: 404, Details: &metav1.StatusDetails{Name: "a"}}
		},
		"a message":       func(e *auditv1.Event) { e.ResponseStatus = &metav1.Status{Message: "x"} },
		"no annotations":  func(e *auditv1.Event) { e.Annotations = map[string]string{} },
		"one annotation":  func(e *auditv1.Event) { e.Annotations = map[string]string{"<a>": "\"b\""} },
		"no reference":    func(e *auditv1.Event) { e.ObjectRef = nil },
		"empty reference": func(e *auditv1.Event) { e.ObjectRef = &auditv1.ObjectReference{} },
		"a whole reference": func(e *auditv1.Event) {
			e.ObjectRef = &auditv1.ObjectReference{Resource: "a", Namespace: "b", Name: "c", UID: "d", APIGroup: "e", APIVersion: "f", ResourceVersion: "g", Subresource: "h"}
		},
		"nobody": func(e *auditv1.Event) { e.User = authenticationv1.UserInfo{} },
		"somebody with more": func(e *auditv1.Event) {
			e.User.UID, e.User.Extra = "u", map[string]authenticationv1.ExtraValue{"k": {"v", "w"}, "e": nil}
		},
		"only extra": func(e *auditv1.Event) {
			e.User = authenticationv1.UserInfo{Extra: map[string]authenticationv1.ExtraValue{"k": {"v"}}}
		},
		"somebody impersonated": func(e *auditv1.Event) {
			e.ImpersonatedUser = &authenticationv1.UserInfo{Username: "nobody", Groups: []string{}}
		},
		"a constraint": func(e *auditv1.Event) {
			e.AuthenticationMetadata = &auditv1.AuthenticationMetadata{ImpersonationConstraint: "c"}
		},
		"several sources":       func(e *auditv1.Event) { e.SourceIPs = []string{"10.0.0.1", "fd00::1"} },
		"no source, no agent":   func(e *auditv1.Event) { e.SourceIPs, e.UserAgent = nil, "" },
		"content of many lines": func(e *auditv1.Event) { e.RequestObject = unknown([]byte("{\n \"a\": [1,\n2, \"<b>\"]\n}")) },
		"an answer":             func(e *auditv1.Event) { e.ResponseObject = unknown([]byte("[1,\n 2]")) },
		"an empty object":       func(e *auditv1.Event) { e.RequestObject = unknown(nil) },
		"no time": func(e *auditv1.Event) {
			e.RequestReceivedTimestamp, e.StageTimestamp = metav1.MicroTime{}, metav1.MicroTime{}
		},
		"a time of another zone": func(e *auditv1.Event) {
			e.StageTimestamp = metav1.NewMicroTime(time.Date(2026, 1, 2, 3, 4, 5, 6000, time.FixedZone("x", 3600)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := sampleEvent()
			change(e)
			agrees(t, e)
		})
	}
}

func FuzzEventsAreOneLine(f *testing.F) {
	f.Add("/api/v1/pods?a=<b>&c=\"d\"", "curl/8\n", "joe\\", "\xff\u2028")
	f.Fuzz(func(t *testing.T, uri, agent, user, note string) {
		e := sampleEvent()
		e.RequestURI, e.UserAgent, e.User.Username, e.ObjectRef.Name = uri, agent, user, note
		e.Annotations[note] = uri
		agrees(t, e)
	})
}

func sampleEvent() *auditv1.Event {
	return &auditv1.Event{
		TypeMeta: metav1.TypeMeta{Kind: "Event", APIVersion: "audit.k8s.io/v1"}, Level: auditv1.LevelMetadata,
		AuditID: types.UID("b3f6e2aa-0b1c-4a2e-8d10-6f2e2d9c1a55"), Stage: auditv1.StageResponseComplete,
		RequestURI: "/api/v1/namespaces/default/pods/web", Verb: "get",
		User:      authenticationv1.UserInfo{Username: "kubernetes-admin", Groups: []string{"system:masters", "system:authenticated"}},
		SourceIPs: []string{"10.0.0.9"}, UserAgent: "kubectl/v1.37.2",
		ObjectRef:                &auditv1.ObjectReference{Resource: "pods", Namespace: "default", Name: "web", APIVersion: "v1"},
		ResponseStatus:           &metav1.Status{Code: 200},
		RequestReceivedTimestamp: metav1.NewMicroTime(time.UnixMicro(1790000000123456)), StageTimestamp: metav1.NewMicroTime(time.UnixMicro(1790000000223456)),
		Annotations: map[string]string{DecisionAnnotation: "allow", ReasonAnnotation: ""},
	}
}

func BenchmarkEncode(b *testing.B) {
	e := sampleEvent()
	b.Run("ours", func(b *testing.B) {
		b.ReportAllocs()
		var line []byte
		for range b.N {
			line, _ = appendEvent(line[:0], e)
		}
		b.SetBytes(int64(len(line)))
	})
	b.Run("encoding-json", func(b *testing.B) {
		b.ReportAllocs()
		for range b.N {
			if _, err := json.Marshal(e); err != nil {
				b.Fatal(err)
			}
		}
	})
}
