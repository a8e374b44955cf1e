package objects

import (
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kontiki/kontiki/api/registry"
)

// An error for an invalid object describes this many problems, in about this many bytes, and at least one.
const (
	maxProblems     = 100
	maxProblemBytes = 256 << 10
)

// Invalid returns the error for an invalid object. It describes the first problems and counts the others, because the duration of
// apierrors.NewInvalid is quadratic in their number.
func Invalid(kind schema.GroupKind, name string, problems field.ErrorList) *apierrors.StatusError {
	shown := min(len(problems), maxProblems)
	if shown > 1 {
		bytes := 0
		for i, problem := range problems[:shown] {
			if bytes += len(problem.Error()); bytes > maxProblemBytes {
				shown = max(i, 1)
				break
			}
		}
	}
	if rest := len(problems) - shown; rest > 0 {
		problems = append(problems[:shown:shown], &field.Error{
			Type: field.ErrorTypeTooMany, Field: problems[shown].Field, BadValue: int64(len(problems)),
			Detail: fmt.Sprintf("errors, of which %d more are not shown", rest),
		})
	}
	return apierrors.NewInvalid(kind, name, problems)
}

// checkGivenSize refuses an object that is far larger than one that can be stored, before more is done with it. A smaller
// one is validated first, whose messages say more. The final size is checked when it is known.
func checkGivenSize(obj registry.Object) error {
	if sized, ok := obj.(interface{ Size() int }); ok {
		if size := sized.Size(); size > 2*MaxObjectBytes {
			return errTooLarge(size)
		}
	}
	return nil
}
