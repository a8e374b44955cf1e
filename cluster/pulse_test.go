package cluster

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// deafWire reaches nobody.
type deafWire struct{ wire }

func (deafWire) AppendEntries(raft.ServerID, raft.ServerAddress, *raft.AppendEntriesRequest, *raft.AppendEntriesResponse) error {
	return errors.New("nobody is reached")
}

func TestHeartbeatsKeepThePulse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPulse(300 * time.Millisecond)
		w := beating{deafWire{}, p}
		heartbeat := func() { // an answer is no condition: it is this process that must not have stood still
			if err := w.AppendEntries("b", "b:1", &raft.AppendEntriesRequest{}, &raft.AppendEntriesResponse{}); err == nil {
				t.Fatal("the wire's error is lost")
			}
		}
		for range 10 {
			time.Sleep(p.limit - time.Millisecond) // virtual; nothing else beats
			if p.late() {
				t.Fatal("the pulse is late though heartbeats go on")
			}
			heartbeat()
		}
		time.Sleep(p.limit + time.Millisecond) // virtual: it is late now
		heartbeat()
		if !p.late() {
			t.Fatal("a heartbeat after a pause has hidden it")
		}
		p.beat() // after a barrier
		if p.late() {
			t.Fatal("the pulse is late after a beat")
		}
	})
}
