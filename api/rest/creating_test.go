package rest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/kontiki/kontiki/api/apiserver"
	"github.com/kontiki/kontiki/api/auth"
	"github.com/kontiki/kontiki/test/harness"
)

// only allows a user some verbs on anything.
type only map[string][]string

func (o only) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	for _, verb := range o[a.GetUser().GetName()] {
		if verb == a.GetVerb() {
			return authorizer.DecisionAllow, "", nil
		}
	}
	if auth.Privileged(a.GetUser()) {
		return authorizer.DecisionAllow, "", nil
	}
	return authorizer.DecisionNoOpinion, "", nil
}

// An update or an apply that creates the object requires "create" too, whichever way it comes.
func TestCreatingByUpdateOrApplyNeedsCreate(t *testing.T) {
	h := harness.NewConfigured(t, func(c *apiserver.Config) {
		c.Authorizer = only{"changer": {"get", "update", "patch"}, "creator": {"get", "update", "patch", "create"}}
	})
	const lease, leases = `{"apiVersion":"coordination.k8s.io/v1","kind":"Lease","metadata":{"name":"l","namespace":"default"}}`, "/apis/coordination.k8s.io/v1/namespaces/default/leases/"
	transaction := func(operation string) []byte {
		body, err := json.Marshal(map[string]any{"fieldManager": "m", "operations": []any{map[string]any{operation: json.RawMessage(lease)}}})
		if err != nil {
			t.Fatal(err)
		}
		return body
	}
	for _, c := range []struct {
		name, method, path, contentType string
		body                            []byte
	}{
		{"update", "PUT", leases + "l", "application/json", []byte(lease)},
		{"apply", "PATCH", leases + "l?fieldManager=m", "application/apply-patch+yaml", []byte(lease)},
		{"update in a transaction", "POST", "/kontiki/v1/transactions", "application/json", transaction("update")},
		{"apply in a transaction", "POST", "/kontiki/v1/transactions", "application/json", transaction("apply")},
	} {
		t.Run(c.name, func(t *testing.T) {
			changer, creator := h.Config("changer"), h.Config("creator")
			code, body := raw(t, changer, c.method, c.path, c.contentType, c.body)
			if code != 403 || !strings.Contains(body, `User \"changer\" cannot create resource \"leases\"`) {
				t.Errorf("without create: %d %s", code, body)
			}
			if code, body = raw(t, changer, "GET", leases+"l", "", nil); code != 404 {
				t.Errorf("then: %d %s", code, body)
			}
			if code, body = raw(t, creator, c.method, c.path, c.contentType, c.body); code != 201 && code != 200 {
				t.Errorf("with create: %d %s", code, body)
			}
			if code, body = raw(t, changer, c.method, c.path, c.contentType, c.body); code == 403 {
				t.Errorf("without create, of what exists: %d %s", code, body)
			}
			if code, body = raw(t, h.Config("admin", "system:masters"), "DELETE", leases+"l", "", nil); code != 200 {
				t.Errorf("delete: %d %s", code, body)
			}
		})
	}
}

// TestVersionsShareOwnership: an autoscaler that was created in one version is applied and changed in the other; whoever changes a field in
// either owns it.
func TestVersionsShareOwnership(t *testing.T) {
	h := harness.New(t)
	set, ctx := h.Clientset(), context.Background()
	const manifest = `{"apiVersion":"autoscaling/%s","kind":"HorizontalPodAutoscaler","metadata":{"name":"h"},"spec":{"maxReplicas":%d,"scaleTargetRef":{"apiVersion":"apps/v1","kind":"Deployment","name":"x"}}}`
	first := set.AutoscalingV1().HorizontalPodAutoscalers("default")
	second := set.AutoscalingV2().HorizontalPodAutoscalers("default")
	if _, err := second.Patch(ctx, "h", types.ApplyPatchType, fmt.Appendf(nil, manifest, "v2", 3), metav1.PatchOptions{FieldManager: "one"}); err != nil {
		t.Fatal(err)
	}
	if _, err := first.Patch(ctx, "h", types.ApplyPatchType, fmt.Appendf(nil, manifest, "v1", 5), metav1.PatchOptions{FieldManager: "one"}); err != nil {
		t.Fatal("an apply in another version:", err)
	}
	if _, err := first.Patch(ctx, "h", types.MergePatchType, []byte(`{"spec":{"maxReplicas":9}}`), metav1.PatchOptions{FieldManager: "other"}); err != nil {
		t.Fatal(err)
	}
	if _, err := second.Patch(ctx, "h", types.ApplyPatchType, fmt.Appendf(nil, manifest, "v2", 3), metav1.PatchOptions{FieldManager: "one"}); !apierrors.IsConflict(err) {
		t.Errorf("an apply over another manager's change: %v", err)
	}
}
