package raftfix

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kontiki/kontiki/internal/pause"
)

// Announcer tells followers of commits. Raft tells them with the next entries, and when there are none, only after the
// commit timeout (0.5 to 1 s): a lone write on a follower would wait that long for its own state machine, and so would
// a consistent read behind it and every watch on a follower. So a leader whose log has come to rest sends one empty
// AppendEntries: the last entry, which is committed, as the previous one and as the commit index, which is what raft
// itself would send later. A follower that lacks the entry refuses it, one in a later term too; neither is harmed. Under load
// entries follow each other, carry the commit index themselves, and nothing more is sent.
type Announcer struct {
	wake   chan struct{}
	header raft.RPCHeader
	node   *raft.Raft
	send   raft.Transport
}

const (
	announceRetries = 9
	announceRetry   = time.Millisecond
	// announcePause is how long a peer that cannot be reached is left alone.
	announcePause = time.Second
)

func NewAnnouncer() *Announcer { return &Announcer{wake: make(chan struct{}, 1)} }

// Started tells of raft once it runs, and of what carries announcements: a transport that holds no call back.
func (a *Announcer) Started(node *raft.Raft, send raft.Transport, header raft.RPCHeader) {
	a.node, a.send, a.header = node, send, header
}

// Committed is called after something was committed: by the state machine's adapter for commands, and by who waited for
// a barrier or a change of configuration. It never blocks.
func (a *Announcer) Committed() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// rest is the index of the last entry if it is committed; 0 while entries are on their way, which will tell the followers.
func (a *Announcer) rest() uint64 {
	commit := a.node.CommitIndex()
	if a.node.LastIndex() != commit {
		return 0
	}
	return commit
}

// Run announces for one term of leadership.
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
		// The term is read after the index: while it is still ours, the index was committed by us, in it. Otherwise
		// the index may be another leader's, and a follower could hold an entry of ours there that is void.
		if index == 0 || a.node.CurrentTerm() != term {
			continue
		}
		future := a.node.GetConfiguration() // is already answered
		if future.Error() != nil {
			continue
		}
		for _, server := range future.Configuration().Servers {
			if string(server.ID) == string(a.header.ID) {
				continue
			}
			server.Suffrage = raft.Voter // a change of it is no new peer
			marks, ok := peers[server]
			if !ok {
				marks = make(chan uint64, 1)
				peers[server] = marks
				wg.Go(func() { a.tell(ctx, server, term, marks) })
			}
			select {
			case <-marks: // a newer mark takes its place
			default:
			}
			marks <- index
		}
	}
}

// tell announces to one peer.
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
				// The last entry of a leader's log is of its own term: it begins with a no-op.
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
