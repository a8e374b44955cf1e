package consensus

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// aheadFake is a raft node and its transport.
type aheadFake struct {
	raft.Transport
	raft.ConfigurationFuture
	state        raft.RaftState
	term, commit uint64
	refuse       error
	sent         []raft.ServerID
	last         *raft.AppendEntriesRequest
}

func (f *aheadFake) State() raft.RaftState                      { return f.state }
func (f *aheadFake) CurrentTerm() uint64                        { return f.term }
func (f *aheadFake) CommitIndex() uint64                        { return f.commit }
func (f *aheadFake) GetConfiguration() raft.ConfigurationFuture { return f }
func (f *aheadFake) Error() error                               { return nil }

func (f *aheadFake) Configuration() raft.Configuration {
	return raft.Configuration{Servers: []raft.Server{
		{ID: "self"}, {ID: "other"}, {ID: "joining", Suffrage: raft.Nonvoter},
	}}
}

func (f *aheadFake) AppendEntries(id raft.ServerID, _ raft.ServerAddress, request *raft.AppendEntriesRequest, response *raft.AppendEntriesResponse) error {
	f.sent, f.last = append(f.sent, id), request
	response.Success = true
	return f.refuse
}

func TestWhatIsSentAhead(t *testing.T) {
	command := func(size int) []*raft.Log { return []*raft.Log{{Index: 8, Term: 3, Data: make([]byte, size)}} }
	for _, test := range []struct {
		name   string
		change func(f *aheadFake)
		logs   []*raft.Log
		want   int
	}{
		{"a lone write", nil, command(100), 1},
		{"of a follower", func(f *aheadFake) { f.state = raft.Follower }, command(100), 0},
		{"of a term that is over", func(f *aheadFake) { f.term++ }, command(100), 0},
		{"while others are under way", func(f *aheadFake) { f.commit-- }, command(100), 0},
		{"as large as may be", nil, command(aheadBytes), 1},
		{"too large", nil, command(aheadBytes + 1), 0},
		{"a change of masters", nil, []*raft.Log{{Index: 8, Term: 3, Type: raft.LogConfiguration}}, 0},
		{"behind a log that was cut", nil, []*raft.Log{{Index: 6, Term: 3}}, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			logs := raft.NewInmemStore()
			if err := logs.StoreLog(&raft.Log{Index: 7, Term: 2}); err != nil {
				t.Fatal(err)
			}
			f := &aheadFake{state: raft.Leader, term: 3, commit: test.logs[0].Index - 1}
			if test.change != nil {
				test.change(f)
			}
			a := newAhead(logs)
			a.storing(test.logs) // raft has not started
			a.start(f, f, raft.RPCHeader{ID: []byte("self")})
			a.storing(test.logs)
			synctest.Wait()
			if len(f.sent) != test.want || test.want > 0 && f.sent[0] != "other" {
				t.Errorf("%s: sent to %v, want %d", test.name, f.sent, test.want)
			}
			if test.want > 0 && (f.last.Term != 3 || f.last.PrevLogEntry != 7 || f.last.PrevLogTerm != 2 || f.last.LeaderCommitIndex != 7) {
				t.Errorf("%s: sent was %+v", test.name, f.last)
			}
			a.close()
			a.storing(test.logs)
			if len(f.sent) != test.want {
				t.Errorf("%s: sent after it was closed", test.name)
			}
		})
	}
}

// For a while, nothing is sent ahead to a follower that does not accept it.
func TestAFollowerThatLagsIsLeftToRaft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logs := raft.NewInmemStore()
		if err := logs.StoreLog(&raft.Log{Index: 7, Term: 3}); err != nil {
			t.Fatal(err)
		}
		f := &aheadFake{state: raft.Leader, term: 3, commit: 7, refuse: errors.New("no")}
		a := newAhead(logs)
		a.start(f, f, raft.RPCHeader{ID: []byte("self")})
		for range 5 {
			a.storing([]*raft.Log{{Index: 8, Term: 3}})
			synctest.Wait()
		}
		if len(f.sent) != 1 {
			t.Errorf("it was sent to %d times", len(f.sent))
		}
		time.Sleep(aheadPause)
		a.storing([]*raft.Log{{Index: 8, Term: 3}})
		a.close()
		if len(f.sent) != 2 {
			t.Errorf("after the pause it was sent to %d times", len(f.sent))
		}
	})
}
