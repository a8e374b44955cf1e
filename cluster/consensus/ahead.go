package consensus

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// ahead sends a lone write to the followers while the leader's own disk is still storing it. Raft first stores an entry on the
// leader's disk and then sends it, so that a lone write waits for two disks in sequence, each with two syncs; in parallel they take
// as long as the slower one. Raft allows this (Ongaro 2014, 10.2.1): the leader counts itself once its disk has the entry, and a
// follower when it responds to what raft itself sends afterwards; by then the follower has the entry and responds at once. A leader
// that crashes before it has stored the entry never leads in its term again, so no other entry of that index and term can exist.
//
// Such an entry is sent twice. So this is done only for small writes, and only while no other entries are in flight: under load
// raft's own pipeline keeps all disks busy.
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

// aheadNode is the part of *raft.Raft that is used.
type aheadNode interface {
	State() raft.RaftState
	CurrentTerm() uint64
	CommitIndex() uint64
	GetConfiguration() raft.ConfigurationFuture
}

// aheadPeer is a follower. Few calls to it are in flight at a time, so that one that hangs costs no more, and none are sent for a
// while after one that failed.
type aheadPeer struct {
	calls int
	again time.Time
}

const (
	// aheadBytes limits the size of what is sent ahead.
	aheadBytes = 16 << 10
	// aheadCalls is two: a write may be committed and the next one arrive before the follower's response to the first has been
	// read.
	aheadCalls = 2
	// aheadPause is how long nothing is sent ahead to a follower that did not accept an entry: it lags, or cannot be reached.
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

// storing is called by raft's main goroutine before it stores entries. It does not block.
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
	future := a.node.GetConfiguration() // has already been resolved
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

// call sends to one follower. Its response is ignored: raft will send the entry again.
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

// close waits for the calls in flight, which the transport has ended, and starts no new ones.
func (a *ahead) close() {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	a.calls.Wait()
}

// aheadLog is a log store that passes entries to ahead before it stores them.
type aheadLog struct {
	raft.LogStore
	ahead *ahead
}

func (l aheadLog) StoreLogs(logs []*raft.Log) error {
	l.ahead.storing(logs)
	return l.LogStore.StoreLogs(logs)
}
