package consensus

import (
	"context"

	"github.com/hashicorp/raft"

	"github.com/kontiki/kontiki/cluster/raftfix"
	clusterv1 "github.com/kontiki/kontiki/proto/kontiki/cluster/v1"
)

// Internals are the parts of a replica, for tests of whole masters that inspect or break one. No other code uses them, which
// test/imports checks.
type Internals struct {
	Raft      *raft.Raft
	Config    *raft.Config
	Disk      Disk
	Transport *raftfix.Transport
	// Propose makes one attempt to propose an encoded command, on whichever master leads.
	Propose func(ctx context.Context, command []byte) (clusterv1.Outcome_State, error)
}

// Internals returns the parts of a started replica.
func (n *Replica) Internals() Internals {
	return Internals{
		Raft: n.node.raft, Config: n.node.config, Disk: n.disk.store, Transport: n.node.transport,
		Propose: func(ctx context.Context, command []byte) (clusterv1.Outcome_State, error) {
			out := n.batches.propose(ctx, command)
			return out.state, out.err
		},
	}
}
