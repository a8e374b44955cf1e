package raftfix

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kontiki/kontiki/internal/broadcast"
)

// What follows handles a defect when a follower comes back. After each failed call to it, a leader of hashicorp/raft v1.8.0 doubles
// the pause before it sends it entries again, up to 10 s, and nothing ends that pause early: not the follower's heartbeats, whose
// own pause is at most half a heartbeat timeout. Such a follower looks healthy but does not count towards the majority: if another
// master fails or is stopped now, writes wait, and leadership cannot be transferred to it. So a failed call with entries returns to
// raft only once a heartbeat has reached the peer, when raft has counted only one failure. (If the failed call were returned as a
// refusal, it would not be counted, but raft would treat it as a sign of life.)

// reach delays failed calls until their peer can be reached.
type reach struct {
	node   atomic.Pointer[raft.Raft] // nil until raft has started: no calls are delayed before
	review time.Duration             // the interval at which a delayed call checks whether raft still needs it
	closed chan struct{}
	once   sync.Once

	mu    sync.Mutex
	peers map[raft.ServerAddress]*broadcast.Signal
}

func newReach(review time.Duration) *reach {
	return &reach{review: review, closed: make(chan struct{}), peers: map[raft.ServerAddress]*broadcast.Signal{}}
}

// IsHeartbeat applies raft's own rule.
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

// heard notes that a heartbeat reached the peer.
func (r *reach) heard(target raft.ServerAddress) { r.of(target).Tell() }

// await returns once a heartbeat has reached the peer, or when raft no longer needs a call of this term.
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
	future := node.GetConfiguration() // has already been resolved
	return future.Error() == nil && slices.ContainsFunc(future.Configuration().Servers, func(s raft.Server) bool { return s.Address == target })
}

// close makes every delayed call return.
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
