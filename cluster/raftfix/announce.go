package raftfix

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kontiki/kontiki/internal/broadcast"
	"github.com/kontiki/kontiki/internal/pause"
)

// Announcer tells followers about commits. Raft tells them with the next entries, and if there are none, only after the commit
// timeout (0.5 to 1 s): a lone write on a follower would wait that long for its own state machine, and so would a read after it and
// every watch on a follower. So a leader without further entries to send sends one empty AppendEntries: its last entry, which is
// committed, is both the previous entry and the commit index, which raft itself would send later. A follower that lacks the entry
// or has a later term refuses the request, which is harmless. Under load, the following entries carry the commit index, and nothing
// is sent in addition.
type Announcer struct {
	wake   chan struct{}
	header raft.RPCHeader
	node   *raft.Raft
	send   raft.Transport
}

const (
	announceRetries = 9
	announceRetry   = time.Millisecond
	// announcePause is how long a peer that cannot be reached is skipped.
	announcePause = time.Second
)

func NewAnnouncer() *Announcer { return &Announcer{wake: make(chan struct{}, 1)} }

// Started is called once raft runs. send carries the announcements: a transport that does not hold calls back.
func (a *Announcer) Started(node *raft.Raft, send raft.Transport, header raft.RPCHeader) {
	a.node, a.send, a.header = node, send, header
}

// Committed is called after a commit: by the state machine's adapter for commands, and by callers that waited for a barrier or a
// configuration change. It never blocks.
func (a *Announcer) Committed() {
	broadcast.Poke(a.wake)
}

// rest returns the index of the last entry if it is committed, or 0 while entries are in flight, which will tell the followers.
func (a *Announcer) rest() uint64 {
	commit := a.node.CommitIndex()
	if a.node.LastIndex() != commit {
		return 0
	}
	return commit
}

// Run sends announcements during one term of leadership.
func (a *Announcer) Run(ctx context.Context, term uint64) {
	var wg sync.WaitGroup
	defer wg.Wait()
	peers := map[raft.Server]chan uint64{}
	for {
		select {
		case <-a.wake:
		case <-ctx.Done():
			return
		}
		index := a.rest()
		// The term is read after the index: while it is still ours, we committed the index, in this term. Otherwise the index may
		// be another leader's, and a follower could have an invalid entry of ours there.
		if index == 0 || a.node.CurrentTerm() != term {
			continue
		}
		future := a.node.GetConfiguration() // has already been resolved
		if future.Error() != nil {
			continue
		}
		for _, server := range future.Configuration().Servers {
			if string(server.ID) == string(a.header.ID) {
				continue
			}
			server.Suffrage = raft.Voter // so that a change of suffrage does not make it a new peer
			marks, ok := peers[server]
			if !ok {
				marks = make(chan uint64, 1)
				peers[server] = marks
				wg.Go(func() { a.tell(ctx, server, term, marks) })
			}
			select {
			case <-marks: // a newer mark replaces it
			default:
			}
			marks <- index
		}
	}
}

// tell sends announcements to one peer.
func (a *Announcer) tell(ctx context.Context, peer raft.Server, term uint64, marks <-chan uint64) {
	for {
		var index uint64
		select {
		case index = <-marks:
		case <-ctx.Done():
			return
		}
		wait := announceRetry
		for try := 0; try < announceRetries && a.node.LastIndex() == index; try++ {
			request := &raft.AppendEntriesRequest{
				RPCHeader: a.header, Term: term,
				// The last entry of a leader's log is of its own term, which begins with a no-op.
				PrevLogEntry: index, PrevLogTerm: term, LeaderCommitIndex: index,
			}
			var response raft.AppendEntriesResponse
			err := a.send.AppendEntries(peer.ID, peer.Address, request, &response)
			if err == nil && (response.Success || response.Term > term) {
				break
			}
			if err != nil {
				wait, try = announcePause, announceRetries
			}
			if !pause.For(ctx, wait) {
				return
			}
			wait *= 2
		}
	}
}
