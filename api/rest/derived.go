package rest

import (
	"sync/atomic"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kontiki/kontiki/api/registry"
)

// derived keeps what was derived from the table for which it was requested last, such as the documents of discovery.
type derived[T any] struct {
	from func(*registry.Table) (*T, error)
	last atomic.Pointer[derivation[T]]
}

type derivation[T any] struct {
	table *registry.Table
	value *T
}

// of returns the value for a table.
func (d *derived[T]) of(table *registry.Table) (*T, error) {
	if last := d.last.Load(); last != nil && last.table == table {
		return last.value, nil
	}
	value, err := d.from(table)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	d.last.Store(&derivation[T]{table, value})
	return value, nil
}
