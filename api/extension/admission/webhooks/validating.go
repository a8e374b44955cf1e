package webhooks

import (
	"context"
	"fmt"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/generic"

	"github.com/kontiki/kontiki/api/extension/admission/attributes"
	"github.com/kontiki/kontiki/internal/contain"
)

// Validate asks the validating webhooks that match a request, all at a time, and returns why the first of them in their order refuses it.
func Validate(ctx context.Context, c Calls, attr *attributes.Attributes, o admission.ObjectInterfaces, matches []Match) error {
	versions := map[schema.GroupVersionKind]*admission.VersionedAttributes{}
	version := func(kind schema.GroupVersionKind) (*admission.VersionedAttributes, error) {
		if known, ok := versions[kind]; ok {
			return known, nil
		}
		made, err := admission.NewVersionedAttributes(attr, kind, o)
		if err == nil {
			versions[kind] = made
		}
		return made, err
	}
	var calls []validation
	for _, m := range matches {
		invocation, err := m.invocation(ctx, c, attr, attr, version)
		if err != nil {
			return err
		}
		if invocation == nil {
			continue
		}
		versioned, err := version(m.Kind)
		if err != nil {
			return apierrors.NewInternalError(err)
		}
		calls = append(calls, validation{m.Hook, invocation, versioned, len(calls)})
	}
	if len(calls) == 0 {
		return nil
	}
	if err := overdue(ctx); err != nil {
		return err
	}
	errs := make([]error, len(calls))
	var wg sync.WaitGroup
	for i, call := range calls {
		wg.Go(func() { errs[i] = call.run(ctx) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// validation is the call of a validating webhook.
type validation struct {
	hook       *Hook
	invocation *generic.WebhookInvocation
	attr       *admission.VersionedAttributes
	place      int
}

// run calls the webhook and returns why the request is refused, nil if it is not.
func (v validation) run(ctx context.Context) error {
	began := time.Now()
	err := contain.Run(func() error {
		_, err := v.hook.call(ctx, v.invocation, v.attr)
		return err
	})
	if v.hook.observe(ctx, v.attr, time.Since(began), err) {
		_ = v.attr.AddAnnotation(fmt.Sprintf("failed-open.validating.webhook.admission.k8s.io/round_0_index_%d", v.place), v.hook.GetName())
		return overdue(ctx)
	}
	return answerOf(err)
}
