package raftfix

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/hashicorp/raft"
)

// Verifier confirms that this master still leads, by responses to heartbeats that are sent after Verify is called.
// raft.VerifyLeader counts any response to a heartbeat that arrives after the call, even if the heartbeat was sent before it. A
// follower that responded and then got TimeoutNow may lead by then, and may have acknowledged a write that this master does not
// have: the vote after a TimeoutNow does not wait for the old leader's lease. So a linearizable read that trusts such a response
// can be stale.
//
// The heartbeats are those that raft sends itself: a follower in the term accepts them, one in a later term refuses them.
type Verifier struct {
	header raft.RPCHeader
	node   *raft.Raft
	send   raft.Transport

	calls  sync.WaitGroup
	mu     sync.Mutex
	closed bool
	peers  map[raft.Server]*verifiedPeer // the peers with a heartbeat in flight
}

// ErrNotFollowed means that no quorum follows this master in its term.
var ErrNotFollowed = errors.New("no quorum follows this master")

// verifiedPeer is a peer with a heartbeat in flight. There is one at a time, so that a peer that hangs costs one call. A question
// that comes meanwhile waits, and replaces one that is already waiting: the caller of that one has enough responses from others, or
// has given up.
type verifiedPeer struct{ next *question }

// question is one round of heartbeats; answers has capacity for all peers.
type question struct {
	term    uint64
	answers chan error
}

// NewVerifier returns a Verifier for a running raft. send must not hold calls back; header is the one that raft puts into its own
// requests.
func NewVerifier(node *raft.Raft, send raft.Transport, header raft.RPCHeader) *Verifier {
	return &Verifier{node: node, send: send, header: header, peers: map[raft.Server]*verifiedPeer{}}
}

// Verify returns nil once a quorum, including this master if it is a voter, has followed it in the term after the call. The caller
// must check afterwards that the term is still this master's. Errors: ErrNotFollowed if a quorum can no longer agree, the
// context's.
func (v *Verifier) Verify(ctx context.Context, term uint64) error {
	future := v.node.GetConfiguration() // has already been resolved
	if err := future.Error(); err != nil {
		return err
	}
	var others []raft.Server
	voters, needed := 0, 0
	for _, s := range future.Configuration().Servers {
		switch {
		case s.Suffrage != raft.Voter:
			continue
		case string(s.ID) == string(v.header.ID):
			needed-- // this master's own vote
		default:
			others = append(others, s)
		}
		voters++
	}
	needed += voters/2 + 1
	q := &question{term: term, answers: make(chan error, len(others))}
	v.ask(others, q)
	for confirmed, refused := 0, 0; confirmed < needed; {
		select {
		case err := <-q.answers:
			if err == nil {
				confirmed++
				continue
			}
			if refused++; len(others)-refused < needed {
				return fmt.Errorf("%w: %w", ErrNotFollowed, err)
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// ask passes a question to the peers.
func (v *Verifier) ask(peers []raft.Server, q *question) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return
	}
	for _, s := range peers {
		p, ok := v.peers[s]
		if !ok {
			p = new(verifiedPeer)
			v.peers[s] = p
		}
		if ok {
			p.next = q
			continue
		}
		v.calls.Go(func() { v.heartbeat(s, p, q) })
	}
}

// heartbeat sends heartbeats to one peer until there is no question left.
func (v *Verifier) heartbeat(peer raft.Server, p *verifiedPeer, q *question) {
	for q != nil {
		request := &raft.AppendEntriesRequest{RPCHeader: v.header, Term: q.term}
		var response raft.AppendEntriesResponse
		err := v.send.AppendEntries(peer.ID, peer.Address, request, &response)
		if err == nil && (!response.Success || response.Term != q.term) {
			err = fmt.Errorf("%s refused a heartbeat of term %d, it is in term %d", peer.ID, q.term, response.Term)
		}
		q.answers <- err
		v.mu.Lock()
		if q, p.next = p.next, nil; q == nil {
			delete(v.peers, peer)
		}
		v.mu.Unlock()
	}
}

// Close waits for the calls in flight, which the transport has ended, and starts no new ones.
func (v *Verifier) Close() {
	v.mu.Lock()
	v.closed = true
	v.mu.Unlock()
	v.calls.Wait()
}
