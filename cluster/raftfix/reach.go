package raftfix

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kontiki/kontiki/internal/broadcast"
)

// What raft leaves undone when a follower comes back. For each call to it that failed, a leader of hashicorp/raft v1.8.0 waits
// twice as long before it sends it entries again, up to 10 s, and nothing cuts that short: not the follower's heartbeats,
// which have a pause of their own of half a heartbeat timeout at most. Such a follower looks well and counts for nothing: if
// another master fails or is stopped now, writes wait, and leadership cannot be handed to it. So a call with entries that
// failed returns to raft only once a heartbeat has reached the peer, while raft has counted one failure. (A failed call that
// returned as a refusal would not be counted, but raft would take it for a sign of life.)

// reach holds failed calls back until their peer is reached.
type reach struct {
	node   atomic.Pointer[raft.Raft] // nil until raft has started: nothing is held back before
	review time.Duration             // how often a held call looks whether raft still wants it
	closed chan struct{}
	once   sync.Once

	mu    sync.Mutex
	peers map[raft.ServerAddress]*broadcast.Signal
}

func newReach(review time.Duration) *reach {
	return &reach{review: review, closed: make(chan struct{}), peers: map[raft.ServerAddress]*broadcast.Signal{}}
}

// IsHeartbeat is raft's own rule.
func IsHeartbeat(request *raft.AppendEntriesRequest) bool {
	return request.PrevLogEntry == 0 && request.PrevLogTerm == 0 && len(request.Entries) == 0 && request.LeaderCommitIndex == 0
}

func (r *reach) of(target raft.ServerAddress) *broadcast.Signal {
	r.mu.Lock()
	defer r.mu.Unlock()
	b, ok := r.peers[target]
	if !ok {
		b = new(broadcast.Signal)
		r.peers[target] = b
	}
	return b
}

// heard tells that a heartbeat reached the peer.
func (r *reach) heard(target raft.ServerAddress) { r.of(target).Tell() }

// await returns once the peer is heard, or a call of this term makes no sense any more.
func (r *reach) await(target raft.ServerAddress, term uint64) {
	heard := r.of(target).Next()
	ticker := time.NewTicker(r.review)
	defer ticker.Stop()
	for r.wanted(target, term) {
		select {
		case <-heard:
			return
		case <-r.closed:
			return
		case <-ticker.C:
		}
	}
}

// wanted says whether this master leads in the term and has the peer as its follower.
func (r *reach) wanted(target raft.ServerAddress, term uint64) bool {
	node := r.node.Load()
	if node == nil || node.State() != raft.Leader || node.CurrentTerm() != term {
		return false
	}
	future := node.GetConfiguration() // is already answered
	return future.Error() == nil && slices.ContainsFunc(future.Configuration().Servers, func(s raft.Server) bool { return s.Address == target })
}

// close lets every call go.
func (r *reach) close() { r.once.Do(func() { close(r.closed) }) }

// AppendEntries implements raft.Transport.
func (t *Transport) AppendEntries(id raft.ServerID, target raft.ServerAddress, request *raft.AppendEntriesRequest, response *raft.AppendEntriesResponse) error {
	err := t.Wire.AppendEntries(id, target, request, response)
	switch {
	case !IsHeartbeat(request) && err != nil:
		t.reach.await(target, request.Term)
	case IsHeartbeat(request) && err == nil:
		t.reach.heard(target)
	}
	return err
}
