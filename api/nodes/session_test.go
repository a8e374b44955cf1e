package nodes

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

// sink is a stream that collects the messages of a master.
type sink struct {
	grpc.ServerStream
	mu   sync.Mutex
	sent []*nodev1.SessionResponse
}

func (s *sink) Send(m *nodev1.SessionResponse) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent = append(s.sent, m)
	return nil
}

// take returns what was sent since its last call.
func (s *sink) take() []*nodev1.SessionResponse {
	s.mu.Lock()
	defer s.mu.Unlock()
	sent := s.sent
	s.sent = nil
	return sent
}

func (s *sink) Recv() (*nodev1.SessionRequest, error) { select {} }

func quietServer(c Config) *Server {
	c.Log = slog.New(slog.DiscardHandler)
	if c.Masters == nil {
		c.Masters = func() []string { return []string{"m:1"} }
	}
	return New(c)
}

func stateOf(a *attendance, node string) State {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.state(node)
}

func TestASilentWorkerIsQuietAndThenGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &session{Server: quietServer(Config{}), node: "w", log: slog.New(slog.DiscardHandler), answers: true}
		s.attendance.set(s, Connected)
		ended := make(chan error, 1)
		go func() { ended <- s.silence(t.Context()) }()
		state := func(want State, when string) {
			t.Helper()
			synctest.Wait()
			if got := stateOf(s.attendance, "w"); got != want {
				t.Fatalf("%s: %s, want %s", when, got, want)
			}
		}
		// It answers every second, so that it never becomes quiet. All time here is virtual.
		for range 20 {
			time.Sleep(time.Second)
			s.heard.Store(true)
			state(Connected, "answering")
		}
		time.Sleep(2400 * time.Millisecond)
		state(Connected, "two answers are late")
		time.Sleep(600 * time.Millisecond)
		state(Quiet, "three seconds of silence")
		s.heard.Store(true)
		time.Sleep(300 * time.Millisecond)
		state(Connected, "it answers again")
		time.Sleep(9 * time.Second)
		select {
		case err := <-ended:
			t.Fatalf("ended too early: %v", err)
		default:
		}
		time.Sleep(2 * time.Second)
		if err := <-ended; status.Code(err) != codes.Unavailable {
			t.Fatalf("a session of a worker that is silent for long: %v", err)
		}
	})
}

func TestWorkersThatDoNotAnswerBeatsAreNotJudgedByThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &session{Server: quietServer(Config{}), node: "old", log: slog.New(slog.DiscardHandler)}
		s.attendance.set(s, Connected)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		s.silence(ctx)
		if got := stateOf(s.attendance, "old"); got != Connected || ctx.Err() == nil {
			t.Errorf("it is %s, the session ended: %v", got, ctx.Err() == nil)
		}
	})
}

func TestBeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		known, more := []string{"m:1"}, []string{"m:1", "n:1"}
		var grown atomic.Bool
		var away atomic.Int64
		out := &sink{}
		server := quietServer(Config{Detached: func() time.Duration { return time.Duration(away.Load()) }, Masters: func() []string {
			if grown.Load() {
				return more
			}
			return known
		}})
		s := &session{Server: server, node: "w", stream: out, log: slog.New(slog.DiscardHandler)}
		ended := make(chan error, 1)
		go func() { ended <- s.beat(t.Context(), known) }()
		time.Sleep(3010 * time.Millisecond) // virtual, as everywhere in this test
		synctest.Wait()
		sent := out.take()
		if len(sent) != 11 {
			t.Errorf("%d beats in three seconds", len(sent))
		}
		for i, m := range sent {
			if m.GetBeat() == nil || m.GetBeat().NextMs != 300 {
				t.Errorf("message %d: %v", i, m)
			}
		}
		// With many workers, the interval of beats grows.
		for i := range 1000 {
			server.attendance.set(&session{node: fmt.Sprint(i)}, Connected)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		sent = out.take()
		if n := len(sent); n < 4 || n > 6 || sent[n-1].GetBeat().NextMs != 2000 {
			t.Errorf("with a thousand workers: %d beats in ten seconds, the next after %d ms", n, sent[n-1].GetBeat().NextMs)
		}
		// Workers get the addresses of new masters.
		out.take()
		grown.Store(true)
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if w := out.take()[0].GetWelcome(); w == nil || len(w.Masters) != 2 {
			t.Errorf("new masters: %v", w)
		}
		// An election does not end a session, a minority does.
		away.Store(int64(2 * time.Second))
		time.Sleep(5 * time.Second)
		synctest.Wait()
		select {
		case err := <-ended:
			t.Fatalf("ended in an election: %v", err)
		default:
		}
		away.Store(int64(4 * time.Second))
		if err := <-ended; status.Code(err) != codes.Unavailable {
			t.Errorf("a master that has lost the others ended with %v", err)
		}
	})
}
