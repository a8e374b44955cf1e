package objects

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kontiki/kontiki/api/objects/views"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/internal/random"
)

// PodBinding is a pod to be bound: the request names it.
type PodBinding struct {
	Request *Request
	Binding *corev1.Binding
}

// BindAll assigns pods to nodes with one command, or with few if they do not fit into one. Each binding is admitted and checked as it
// would be alone (Bind), and one that is refused does not affect the others. It returns an error for each, in order; nil for those that
// succeeded.
func (s *Service) BindAll(ctx context.Context, bindings []PodBinding) []error {
	bindings = withMemos(bindings)
	errs := make([]error, len(bindings))
	pending := make([]int, len(bindings))
	for i := range pending {
		pending[i] = i
	}
	most := len(pending)
	for len(pending) > 0 {
		batch := pending[:min(most, len(pending))]
		changed, err := s.bindOnce(ctx, bindings, batch, errs)
		switch {
		case errors.Is(err, kv.ErrTooLarge) && len(batch) > 1:
			most = (len(batch) + 1) / 2
			continue
		case err != nil:
			for _, i := range batch {
				if errs[i] == nil {
					errs[i] = storeError(bindings[i].Request, err)
				}
			}
		case changed >= 0:
			// This pod changed since it was read. The others are tried again without it.
			errs[changed] = s.Bind(ctx, bindings[changed].Request, bindings[changed].Binding)
			pending = slices.DeleteFunc(pending, func(i int) bool { return i == changed })
			continue
		}
		pending = pending[len(batch):]
	}
	return errs
}

// BindTogether assigns all of some pods to nodes with one command, or none of them. It returns the error of the first that is refused.
func (s *Service) BindTogether(ctx context.Context, bindings []PodBinding) error {
	if len(bindings) == 0 {
		return nil
	}
	bindings = withMemos(bindings)
	err := s.attempt(ctx, func(view kv.View) error {
		staged := views.NewOverlay(view)
		within := *s
		within.store = staged
		for i := range bindings {
			if err := within.Bind(ctx, bindings[i].Request, bindings[i].Binding); err != nil {
				return err
			}
		}
		ops, _ := staged.Command()
		result, err := s.store.Propose(ctx, &kv.Command{ID: random.CommandID(), Ops: ops})
		switch {
		case errors.Is(err, kv.ErrTooLarge):
			return apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("the pods are together larger than one command may be (%d bytes)", kv.MaxCommandBytes))
		case err != nil:
			return storeError(bindings[0].Request, err)
		case result.Failed != nil:
			return errRetry
		}
		return nil
	})
	if errors.Is(err, errRetry) {
		return conflict(bindings[0].Request)
	}
	return err
}

// bindOnce carries out a batch with one command, and sets the errors of those that are refused. If the command was not carried out
// because one of the pods has changed, it returns which; otherwise -1. The error concerns the whole command.
func (s *Service) bindOnce(ctx context.Context, bindings []PodBinding, batch []int, errs []error) (changed int, err error) {
	staged := views.NewOverlay(s.store.View())
	within := *s
	within.store = staged
	for _, i := range batch {
		staged.Operation = i
		errs[i] = within.Bind(ctx, bindings[i].Request, bindings[i].Binding)
	}
	ops, owners := staged.Command()
	if len(ops) == 0 {
		return -1, nil
	}
	result, err := s.store.Propose(ctx, &kv.Command{ID: random.CommandID(), Ops: ops})
	if err != nil {
		return -1, err
	}
	if result.Failed != nil {
		return owners[result.Failed.Index], nil
	}
	return -1, nil
}

// withMemos returns the bindings with a memory each for all attempts to carry them out.
func withMemos(bindings []PodBinding) []PodBinding {
	bindings = slices.Clone(bindings)
	for i := range bindings {
		bindings[i].Request = bindings[i].Request.withMemo()
	}
	return bindings
}
