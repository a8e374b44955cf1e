package builtin

import (
	"context"

	"k8s.io/apimachinery/pkg/runtime"

	"github.com/kontiki/kontiki/api/registry"
)

// notYet adds a warning to every creation and update of a resource that is stored, but on which nothing of the cluster acts yet.
func notYet(r *registry.Resource, text string) *registry.Resource {
	text = r.Resource + ": " + text
	created, changed := r.WarnCreate, r.WarnUpdate
	r.WarnCreate = func(ctx context.Context, obj runtime.Object) []string {
		out := []string{text}
		if created != nil {
			out = append(out, created(ctx, obj)...)
		}
		return out
	}
	r.WarnUpdate = func(ctx context.Context, obj, old runtime.Object) []string {
		out := []string{text}
		if changed != nil {
			out = append(out, changed(ctx, obj, old)...)
		}
		return out
	}
	return r
}

const notEnforced = "stored, but not enforced yet: all traffic passes"
