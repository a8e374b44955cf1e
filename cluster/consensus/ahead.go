package consensus

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// ahead sends a lone write to the followers while the leader's own disk is still storing it. Raft stores an entry on the leader's disk
// first and sends it then, so that a lone write waits for two disks one after the other, each with two syncs; together they take
// as long as the slower one. Raft allows it (Ongaro 2014, 10.2.1): the leader counts itself once its disk has the entry, and a follower
// by its answer to what raft itself sends afterwards, which finds the entry there and is answered at once. A leader that crashes
// before it has stored the entry never leads in its term again, so nobody makes another entry of that index and term.
//
// What is sent ahead is sent twice. So it is done for small writes only, and only while the log is at rest: under load raft's own pipeline
// keeps all disks busy.
type ahead struct {
	header raft.RPCHeader
	send   raft.Transport
	logs   raft.LogStore
	node   aheadNode // nil until raft has started

	calls  sync.WaitGroup
	mu     sync.Mutex
	closed bool
	peers  map[raft.Server]*aheadPeer
}

// aheadNode is what is asked of *raft.Raft.
type aheadNode interface {
	State() raft.RaftState
	CurrentTerm() uint64
	CommitIndex() uint64
	GetConfiguration() raft.ConfigurationFuture
}

// aheadPeer is a follower. Few calls are under way at a time, so that one that hangs costs no more, and none for a while after one that
// failed.
type aheadPeer struct {
	calls int
	again time.Time
}

const (
	// aheadBytes bounds what is sent ahead.
	aheadBytes = 16 << 10
	// aheadCalls is two: a write may be committed and the next one come before the follower's answer to the first has been read.
	aheadCalls = 2
	// aheadPause is how long a follower that did not take an entry is left to raft: it lags, or cannot be reached.
	aheadPause = time.Second
)

func newAhead(logs raft.LogStore) *ahead {
	return &ahead{logs: logs, peers: map[raft.Server]*aheadPeer{}}
}

// start is called once raft has started.
func (a *ahead) start(node aheadNode, send raft.Transport, header raft.RPCHeader) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.node, a.send, a.header = node, send, header
}

// storing is called by raft's main goroutine before it stores entries. It does not wait.
func (a *ahead) storing(logs []*raft.Log) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.node == nil || a.closed || a.node.State() != raft.Leader {
		return
	}
	size := 0
	for _, l := range logs {
		if size += len(l.Data); l.Type != raft.LogCommand || size > aheadBytes {
			return
		}
	}
	first, term := logs[0].Index, logs[0].Term
	var previous raft.Log
	if a.node.CommitIndex() != first-1 || a.node.CurrentTerm() != term || a.logs.GetLog(first-1, &previous) != nil {
		return
	}
	future := a.node.GetConfiguration() // is already answered
	if future.Error() != nil {
		return
	}
	request := &raft.AppendEntriesRequest{
		RPCHeader: a.header, Term: term,
		PrevLogEntry: first - 1, PrevLogTerm: previous.Term, Entries: logs, LeaderCommitIndex: first - 1,
	}
	now := time.Now()
	for _, server := range future.Configuration().Servers {
		if server.Suffrage != raft.Voter || string(server.ID) == string(a.header.ID) {
			continue
		}
		peer := a.peers[server]
		if peer == nil {
			peer = new(aheadPeer)
			a.peers[server] = peer
		}
		if peer.calls < aheadCalls && !now.Before(peer.again) {
			peer.calls++
			a.calls.Go(func() { a.call(server, peer, request) })
		}
	}
}

// call sends to one follower. What it answers is of no interest to raft, which asks it again.
func (a *ahead) call(server raft.Server, peer *aheadPeer, request *raft.AppendEntriesRequest) {
	var response raft.AppendEntriesResponse
	err := a.send.AppendEntries(server.ID, server.Address, request, &response)
	a.mu.Lock()
	defer a.mu.Unlock()
	peer.calls--
	if err != nil || !response.Success {
		peer.again = time.Now().Add(aheadPause)
	}
}

// close waits for the calls under way, which the transport has ended, and begins no new ones.
func (a *ahead) close() {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	a.calls.Wait()
}

// aheadLog is a log store that tells of entries before it stores them.
type aheadLog struct {
	raft.LogStore
	ahead *ahead
}

func (l aheadLog) StoreLogs(logs []*raft.Log) error {
	l.ahead.storing(logs)
	return l.LogStore.StoreLogs(logs)
}
