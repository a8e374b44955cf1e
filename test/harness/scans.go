package harness

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/internal/kv"
)

// Scans is a store that counts how many objects of some resources are visited by range scans, whose cost depends on the number of
// objects and not of changes.
type Scans struct {
	objects.Store
	resources []string
	visited   atomic.Int64
}

// NewScanned is New over a store that counts visits of resources ("pods").
func NewScanned(t testing.TB, resources ...string) (*Harness, *Scans) {
	t.Helper()
	s := &Scans{resources: resources}
	return NewOver(t, func(inner objects.Store) objects.Store {
		s.Store = inner
		return s
	}), s
}

// Visited returns the number of visits since the last Reset.
func (s *Scans) Visited() int { return int(s.visited.Load()) }

// Reset sets the number to 0.
func (s *Scans) Reset() { s.visited.Store(0) }

// View implements objects.Store.
func (s *Scans) View() kv.View { return scannedView{s.Store.View(), s} }

// Consistent implements objects.Store.
func (s *Scans) Consistent(ctx context.Context) (kv.View, error) {
	view, err := s.Store.Consistent(ctx)
	return scannedView{view, s}, err
}

type scannedView struct {
	kv.View
	scans *Scans
}

func (v scannedView) Range(start, end string, visit func(*kv.Version) bool) {
	v.View.Range(start, end, func(version *kv.Version) bool {
		for _, resource := range v.scans.resources {
			if strings.Contains(version.Key, "/"+resource+"/") {
				v.scans.visited.Add(1)
			}
		}
		return visit(version)
	})
}
