package objects

import (
	"context"
	"errors"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/internal/pause"
	"github.com/kontiki/kontiki/internal/random"
)

// Fenced is the cause in the error of a write that a fence stopped.
const Fenced metav1.CauseType = "Fenced"

var errFenced = errors.New("another one has begun to act in place of this one")

const (
	// fencePrefix begins the keys of fences. A backup does not bring them back.
	fencePrefix = kv.OwnPrefix + "fences/"
	// fenceAgain is the pause after a fence could not be put up, as when the masters' disks are full.
	fenceAgain = 500 * time.Millisecond
)

// Fence returns the service for a component of which only one may act in the cluster, such as the scheduler: once another one has called
// Fence with the same name, on any master, no write of this one is carried out any more. Without it, a write that an earlier leader
// had sent could still be carried out after the next one has read the state and decided: both could give the same room of a node, or
// the same device, away. (This is a fencing token, whose number is the revision of a key; each command has the condition that the key is
// still at it.)
//
// Fence waits until its own write is committed, and fails only when the context ends. A write that is refused changes nothing: its error
// is ServiceUnavailable, with the cause Fenced.
func (s *Service) Fence(ctx context.Context, name string) (*Service, error) {
	key := fencePrefix + name
	for {
		result, err := s.store.Propose(ctx, &kv.Command{ID: random.CommandID(), Ops: []kv.Op{{Key: key, Value: []byte(s.now().UTC().Format(time.RFC3339Nano))}}})
		if err == nil {
			within := *s
			within.store = fenced{s.store, kv.Op{Key: key, Check: true, Cond: kv.AtRevision, Revision: result.Revisions[0]}}
			return &within, nil
		}
		if !pause.For(ctx, fenceAgain) {
			return nil, fmt.Errorf("put up the fence of the %s: %w", name, err)
		}
	}
}

// WorkerFence returns the name of the fence of a worker's reports, which is removed with its node.
func WorkerFence(node string) string { return "workers/" + node }

// RemoveFence is the operation that removes a fence of a name that is not used any more. Whoever holds it cannot write from then on.
func RemoveFence(name string) kv.Op { return kv.Op{Key: fencePrefix + name, Delete: true} }

// fenced adds a check to each command.
type fenced struct {
	Store
	check kv.Op
}

func (f fenced) Propose(ctx context.Context, command *kv.Command) (kv.Result, error) {
	c := *command
	n := len(command.Ops)
	c.Ops = append(command.Ops[:n:n], f.check)
	result, err := f.Store.Propose(ctx, &c)
	switch {
	case err != nil:
		return result, err
	case result.Failed != nil && result.Failed.Index == n:
		return kv.Result{}, errFenced
	case result.Failed == nil:
		result.Revisions = result.Revisions[:n]
	}
	return result, nil
}
