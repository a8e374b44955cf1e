package cluster

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// announcer tells followers of commits. Raft tells them with the next entries, and when there are none, only after the
// commit timeout (30 to 60 ms): a lone write on a follower would wait that long for its own state machine, and so would
// a consistent read behind it and every watch on a follower. So a leader whose log has come to rest sends one empty
// AppendEntries: the committed entry as the previous one and as the commit index, which is what raft itself would
// send later. A follower that lacks the entry refuses it, one in a later term too; neither is harmed. Under load
// entries follow each other, carry the commit index themselves, and nothing more is sent.
type announcer struct {
	last   atomic.Pointer[mark] // the last entry that the state machine applied
	wake   chan struct{}
	header raft.RPCHeader
	node   *raft.Raft
	send   raft.Transport
}

// mark names a committed entry.
type mark struct{ index, term uint64 }

const (
	announceRetries = 5
	announceRetry   = time.Millisecond
	// announcePause is how long a peer that cannot be reached is left alone.
	announcePause = time.Second
)

func newAnnouncer() *announcer { return &announcer{wake: make(chan struct{}, 1)} }

// applied is called by the state machine's adapter after each batch. It never blocks.
func (a *announcer) applied(entry *raft.Log) {
	a.last.Store(&mark{entry.Index, entry.Term})
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// run announces for one term of leadership.
func (a *announcer) run(ctx context.Context, term uint64) {
	var wg sync.WaitGroup
	defer wg.Wait()
	peers := map[raft.Server]chan mark{}
	for {
		select {
		case <-a.wake:
		case <-ctx.Done():
			return
		}
		last := a.last.Load()
		if last == nil || a.node.LastIndex() > last.index {
			continue // entries are on their way, and tell it
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
				marks = make(chan mark, 1)
				peers[server] = marks
				wg.Go(func() { a.tell(ctx, server, term, marks) })
			}
			select {
			case <-marks: // a newer mark takes its place
			default:
			}
			marks <- *last
		}
	}
}

// tell announces to one peer.
func (a *announcer) tell(ctx context.Context, peer raft.Server, term uint64, marks <-chan mark) {
	for {
		var m mark
		select {
		case m = <-marks:
		case <-ctx.Done():
			return
		}
		pause := announceRetry
		for try := 0; try < announceRetries && a.node.LastIndex() == m.index; try++ {
			request := &raft.AppendEntriesRequest{
				RPCHeader: a.header, Leader: a.header.Addr, Term: term,
				PrevLogEntry: m.index, PrevLogTerm: m.term, LeaderCommitIndex: m.index,
			}
			var response raft.AppendEntriesResponse
			err := a.send.AppendEntries(peer.ID, peer.Address, request, &response)
			if err == nil && (response.Success || response.Term > term) {
				break
			}
			if err != nil {
				pause, try = announcePause, announceRetries
			}
			timer := time.NewTimer(pause)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
				return
			}
			pause *= 2
		}
	}
}
