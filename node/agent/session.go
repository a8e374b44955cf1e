package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kontiki/kontiki/node/wire"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

// welcomeTimeout is how long a master may take until its first word.
const welcomeTimeout = 2 * time.Second

var errNoSession = errors.New("agent: no session with a master")

// sessions keeps one session with one master, for ever: when it ends, the next master is tried at once; only after all
// of them have failed in turn does the agent wait.
func (a *Agent) sessions(ctx context.Context) error {
	next := rand.IntN(1 << 16) // nodes spread over the masters
	failures := 0
	for ctx.Err() == nil {
		masters := a.masters()
		if len(masters) == 0 {
			return errors.New("agent: no master's address is known")
		}
		addr := masters[next%len(masters)]
		next++
		began := time.Now()
		served, err := a.session(ctx, addr)
		if ctx.Err() != nil {
			break
		}
		slog.Info("session ended", "master", addr, "err", err)
		if served && time.Since(began) > time.Second { // one that welcomes and drops us at once counts as failing
			failures = 0
			continue
		}
		if failures++; failures%len(masters) == 0 {
			round := failures / len(masters)
			delay := min(50*time.Millisecond<<min(round, 6), 2*time.Second)
			select {
			case <-ctx.Done():
			case <-time.After(delay/2 + rand.N(delay)):
			}
		}
	}
	return ctx.Err()
}

func (a *Agent) masters() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []string
	if a.welcome != nil {
		out = append(out, a.welcome.Masters...)
	}
	for _, m := range a.c.Masters {
		if !slices.Contains(out, m) {
			out = append(out, m)
		}
	}
	return out
}

// session runs one session until it ends. served says that the master welcomed us.
func (a *Agent) session(ctx context.Context, addr string) (served bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	deadline := time.AfterFunc(welcomeTimeout, cancel)
	defer deadline.Stop()
	conn, err := a.c.Dial(ctx, addr)
	if err != nil {
		return false, fmt.Errorf("dial %s: %w", addr, err)
	}
	defer conn.Close()
	client := nodev1.NewNodeServiceClient(conn)
	stream, err := client.Session(ctx)
	if err != nil {
		return false, err
	}
	node, err := wire.Encode("v1", "Node", a.node.current())
	if err != nil {
		return false, err
	}
	if err := stream.Send(&nodev1.SessionRequest{Message: &nodev1.SessionRequest_Hello{Hello: &nodev1.Hello{NodeName: a.c.NodeName, Node: node}}}); err != nil {
		return false, streamError(stream, err)
	}
	first, err := stream.Recv()
	if err != nil {
		return false, err
	}
	w := first.GetWelcome()
	if w == nil {
		return false, fmt.Errorf("master %s did not begin with a welcome", addr)
	}
	if !deadline.Stop() {
		return false, fmt.Errorf("master %s was too slow", addr)
	}
	slog.Info("session begins", "master", addr)
	a.takeWelcome(w)
	a.mu.Lock()
	a.conn = client
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		a.conn = nil
		a.mu.Unlock()
	}()
	a.out.begin()
	defer a.out.end()

	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer cancel()
		return a.receive(stream)
	})
	g.Go(func() error {
		defer cancel()
		for {
			b, err := a.out.next(gctx, a.node.current)
			if err != nil {
				return err
			}
			if err := stream.Send(&nodev1.SessionRequest{Message: &nodev1.SessionRequest_Status{Status: b}}); err != nil {
				if errors.Is(err, io.EOF) {
					<-gctx.Done() // the receiver learns the reason
				}
				return err
			}
		}
	})
	return true, g.Wait()
}

// streamError finds the reason behind Send's io.EOF.
func streamError(stream nodev1.NodeService_SessionClient, err error) error {
	if errors.Is(err, io.EOF) {
		if rerr := stream.RecvMsg(&nodev1.SessionResponse{}); rerr != nil {
			return rerr
		}
	}
	return err
}

func (a *Agent) receive(stream nodev1.NodeService_SessionClient) error {
	full := false
	var gathered []*nodev1.Object // of a full set that comes in several messages
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		switch {
		case m.GetAssignment() != nil:
			as := m.GetAssignment()
			if !full && as.From != 0 {
				return errors.New("the first assignment of a session is not a full one")
			}
			full = true
			gathered = append(gathered, as.Upserts...)
			if as.Incomplete {
				continue
			}
			as.Upserts, gathered = gathered, nil
			if err := a.apply(as); err != nil {
				return err // a gap: the next session begins with a full set
			}
		case m.GetStatusResult() != nil:
			r := m.GetStatusResult()
			for _, e := range r.Errors {
				slog.Warn("master refused a report", "err", e)
			}
			a.out.acknowledge(r.Sequence)
		case m.GetWelcome() != nil: // the masters changed
			a.takeWelcome(m.GetWelcome())
		}
	}
}

func (a *Agent) takeWelcome(w *nodev1.Welcome) {
	a.mu.Lock()
	a.welcome = w
	a.mu.Unlock()
	if err := a.store.keepWelcome(w); err != nil {
		slog.Error("masters' addresses are not durable", "err", err)
	}
	a.kick()
}

// createToken asks the session's master for a service account token.
func (a *Agent) createToken(ctx context.Context, r *nodev1.CreateTokenRequest) (*nodev1.CreateTokenResponse, error) {
	a.mu.Lock()
	c := a.conn
	a.mu.Unlock()
	if c == nil {
		return nil, errNoSession
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return c.CreateToken(ctx, r)
}
