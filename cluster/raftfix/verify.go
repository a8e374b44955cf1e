package raftfix

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/hashicorp/raft"
)

// Verifier confirms that this master still leads, by answers to heartbeats that were sent after it was asked. raft.VerifyLeader counts any
// answer to a heartbeat that arrives after the question, also to one that was sent before it. A follower that answered and then got
// TimeoutNow may lead by then, and may have acknowledged a write that this master has not seen: its vote does not wait for the old
// leader's lease. So a consistent read that trusts such an answer can be stale.
//
// The heartbeats are what raft sends itself: a follower of the term takes them for its leader's, one of a later term refuses them.
type Verifier struct {
	header raft.RPCHeader
	node   *raft.Raft
	send   raft.Transport

	calls  sync.WaitGroup
	mu     sync.Mutex
	closed bool
	peers  map[raft.Server]*verifiedPeer // those that are being asked
}

// ErrNotFollowed says that no quorum follows this master in its term.
var ErrNotFollowed = errors.New("no quorum follows this master")

// verifiedPeer is who is asked: one heartbeat at a time, so that a peer that hangs costs one call. A question that comes meanwhile waits, and
// takes the place of one that waits already: whoever asked that one has got its answer from others, or has given up.
type verifiedPeer struct{ next *question }

// question is one round: answers has room for all peers.
type question struct {
	term    uint64
	answers chan error
}

// NewVerifier makes one for a raft that runs. The transport is one that holds no call back, the header what raft puts into its own requests.
func NewVerifier(node *raft.Raft, send raft.Transport, header raft.RPCHeader) *Verifier {
	return &Verifier{node: node, send: send, header: header, peers: map[raft.Server]*verifiedPeer{}}
}

// Verify returns nil once a quorum, this master counted if it has a vote, has followed it in the term after the call. The caller checks
// afterwards that the term is still this master's. Errors: errNotFollowed when a quorum can no longer agree, the context's.
func (v *Verifier) Verify(ctx context.Context, term uint64) error {
	future := v.node.GetConfiguration() // is already answered
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

// ask gives the peers a question.
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

// heartbeat asks one peer, until no question is left.
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

// Close waits for the calls under way, which the transport has ended, and begins no new ones.
func (v *Verifier) Close() {
	v.mu.Lock()
	v.closed = true
	v.mu.Unlock()
	v.calls.Wait()
}
