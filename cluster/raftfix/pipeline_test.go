package raftfix

import (
	"net"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

type plainLayer struct{ net.Listener }

func (plainLayer) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	return net.DialTimeout("tcp", string(address), timeout)
}

// TestAPipelineWhoseAnswersNobodyReads accepts more requests, and can be closed: raft's own pipeline blocks in both.
func TestAPipelineWhoseAnswersNobodyReads(t *testing.T) {
	listen := func() *raft.NetworkTransport {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		trans := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{Stream: plainLayer{l}, MaxPool: 1, Timeout: time.Minute, Logger: hclog.NewNullLogger()})
		t.Cleanup(func() { trans.Close() })
		return trans
	}
	leader, follower := listen(), listen()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		for {
			select {
			case rpc := <-follower.Consumer():
				rpc.Respond(&raft.AppendEntriesResponse{Success: false}, nil)
			case <-stop:
				return
			}
		}
	}()
	pipeline, err := (&Transport{Wire: plainWire{leader}}).AppendEntriesPipeline("follower", follower.LocalAddr())
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		for range 50 {
			if _, err := pipeline.AppendEntries(&raft.AppendEntriesRequest{Term: 1}, new(raft.AppendEntriesResponse)); err != nil {
				done <- err
				return
			}
		}
		done <- pipeline.Close()
	}()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("the pipeline is stuck")
	}
}

// plainWire is raft's own transport.
type plainWire struct{ *raft.NetworkTransport }

func (plainWire) Suspend(bool)           {}
func (plainWire) Cut(raft.ServerAddress) {}
func (plainWire) HangUp()                {}
