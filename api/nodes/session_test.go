package nodes

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

// sink is a stream that takes what a master sends.
type sink struct {
	grpc.ServerStream
	sent []*nodev1.SessionResponse
	at   []time.Time
}

func (s *sink) Send(m *nodev1.SessionResponse) error {
	s.sent, s.at = append(s.sent, m), append(s.at, time.Now())
	return nil
}

func (s *sink) Recv() (*nodev1.SessionRequest, error) { select {} }

func quietServer(c Config) *Server {
	c.Log = slog.New(slog.DiscardHandler)
	if c.Masters == nil {
		c.Masters = func() []string { return []string{"m:1"} }
	}
	return New(c)
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
			if got := s.attendance.state("w"); got != want {
				t.Fatalf("%s: %s, want %s", when, got, want)
			}
		}
		// It answers every second: that never makes it quiet.
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
		if got := s.attendance.state("old"); got != Connected || ctx.Err() == nil {
			t.Errorf("it is %s, the session ended: %v", got, ctx.Err() == nil)
		}
	})
}

func TestBeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		known := []string{"m:1"}
		var away time.Duration
		out := &sink{}
		server := quietServer(Config{Masters: func() []string { return known }, Detached: func() time.Duration { return away }})
		s := &session{Server: server, node: "w", stream: out, log: slog.New(slog.DiscardHandler)}
		ended := make(chan error, 1)
		go func() { ended <- s.beat(t.Context(), known) }()
		time.Sleep(3010 * time.Millisecond)
		synctest.Wait()
		if len(out.sent) != 11 {
			t.Errorf("%d beats in three seconds", len(out.sent))
		}
		for i, m := range out.sent {
			if m.GetBeat() == nil || m.GetBeat().NextMs != 300 {
				t.Errorf("message %d: %v", i, m)
			}
		}
		// Many workers share the rhythm that a master can afford.
		for i := range 1000 {
			server.attendance.set(&session{node: fmt.Sprint(i)}, Connected)
		}
		out.sent = nil
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if n := len(out.sent); n < 4 || n > 6 || out.sent[n-1].GetBeat().NextMs != 2000 {
			t.Errorf("with a thousand workers: %d beats in ten seconds, the next after %d ms", n, out.sent[n-1].GetBeat().NextMs)
		}
		// New masters are told.
		known = []string{"m:1", "n:1"}
		out.sent = nil
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if w := out.sent[0].GetWelcome(); w == nil || len(w.Masters) != 2 {
			t.Errorf("new masters: %v", out.sent[0])
		}
		// An election does not end a session, a minority does.
		away = 2 * time.Second
		time.Sleep(5 * time.Second)
		synctest.Wait()
		select {
		case err := <-ended:
			t.Fatalf("ended in an election: %v", err)
		default:
		}
		away = 4 * time.Second
		if err := <-ended; status.Code(err) != codes.Unavailable {
			t.Errorf("a master that has lost the others ended with %v", err)
		}
	})
}
