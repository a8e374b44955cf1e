package agent

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"

	"github.com/kontiki/kontiki/internal/pause"
	"github.com/kontiki/kontiki/node/guard"
	"github.com/kontiki/kontiki/node/wire"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

const (
	// welcomeTimeout is how long a master may take to send its welcome; it doubles each time that all masters have taken too long, and
	// under strain.
	welcomeTimeout, longestWelcome = time.Second, 8 * time.Second
	// missedBeats is how many heartbeats in a row must be missing for a master to count as silent (more under strain), minSilence the
	// least time that takes.
	missedBeats = 3
	minSilence  = time.Second
	// steady is the duration of a session after which refusals are forgotten.
	steady = 10 * time.Second
	// firstRefusal is about how long the agent waits after a master has refused it for a reason that other masters share, such as that
	// the cluster has no room for another node; it doubles up to longestRefusal.
	firstRefusal, longestRefusal = time.Second, time.Minute
	// answerPeriod is the shortest time between two answers to heartbeats.
	answerPeriod = 900 * time.Millisecond
)

var (
	errNoSession = errors.New("agent: no session with a master")
	errSilent    = errors.New("agent: the master is silent")
)

// sessions keeps one session with one master until ctx ends: when a session ends, the next master is tried at once; only after all
// of them have failed in turn does the agent wait.
//
// Each worker tries masters in its own order, so that workers spread over the masters, and those of a master that died over the
// others. Masters that have more workers than others ask some to move.
func (a *Agent) sessions(ctx context.Context) error {
	next, failures, refusals := 0, 0, 0
	var strain strain
	var last, moveTo string
	for ctx.Err() == nil {
		masters := a.masters()
		if len(masters) == 0 {
			return errors.New("agent: no master's address is known")
		}
		addr := moveTo
		if moveTo = ""; addr == "" {
			if addr = masters[next%len(masters)]; addr == last {
				next++
				addr = masters[next%len(masters)]
			}
			next++
		}
		last = addr
		round := failures / len(masters)
		began := time.Now()
		patience := min(max(welcomeTimeout<<min(round, 3), strain.patience()), longestWelcome)
		served, err := a.session(ctx, addr, patience, strain.missed())
		if ctx.Err() != nil {
			break
		}
		lasted := time.Since(began)
		if lasted > steady {
			refusals = 0
		}
		if refused(err) {
			refusals++
			delay := refusalDelay(refusals)
			slog.Warn("the cluster refuses this worker; trying again later", "master", addr, "err", err, "in", delay.Round(time.Millisecond))
			if !pause.For(ctx, delay) {
				break
			}
			continue
		}
		slog.Info("session ended", "master", addr, "err", err)
		if strain.ended(err, time.Now()); !pause.For(ctx, strain.pause()) {
			break
		}
		if move := new(moved); errors.As(err, &move) {
			moveTo, failures = move.to, 0
			continue
		}
		if served && lasted > time.Second { // one that welcomes us and ends the session at once counts as failing
			failures = 0
			continue
		}
		if failures++; failures%len(masters) == 0 {
			delay := min(50*time.Millisecond<<min(failures/len(masters), 6), 2*time.Second)
			select {
			case <-ctx.Done():
			case <-time.After(delay/2 + rand.N(delay)):
			}
		}
	}
	return ctx.Err()
}

// refused says whether a master ended a session for a reason that another attempt soon, with any master, would meet again.
func refused(err error) bool {
	switch status.Code(err) {
	case codes.ResourceExhausted, codes.FailedPrecondition, codes.PermissionDenied, codes.InvalidArgument:
		return true
	}
	return false
}

// refusalDelay returns how long to wait after so many refusals in a row: different for each worker, as many may be refused together.
func refusalDelay(refusals int) time.Duration {
	delay := min(firstRefusal<<min(refusals-1, 10), longestRefusal)
	return delay/2 + rand.N(delay)
}

// moved is the reason for ending a session with a master that asked the worker to move to another.
type moved struct{ to string }

func (m *moved) Error() string { return "agent: asked to move to master " + m.to }

// inOrder returns masters in the order in which a node tries them: by a hash of both names, so that each node has its own order,
// which does not depend on which other masters there are.
func inOrder(node string, masters []string) []string {
	weight := func(master string) uint64 {
		h := fnv.New64a()
		io.WriteString(h, node+"\x00"+master) // it never fails
		// The last bytes of FNV's input have little effect on its high bits.
		x := h.Sum64()
		x ^= x >> 33
		x *= 0xff51afd7ed558ccd
		return x ^ x>>33
	}
	masters = slices.Clone(masters)
	slices.SortFunc(masters, func(a, b string) int {
		if weight(a) < weight(b) {
			return -1
		}
		return 1
	})
	return masters
}

// masters returns the masters in the order in which to try them: those that a master sent, then the configured ones.
func (a *Agent) masters() []string {
	a.mu.Lock()
	var told []string
	if a.welcome != nil {
		told = a.welcome.Masters
	}
	a.mu.Unlock()
	given := slices.DeleteFunc(slices.Clone(a.c.Masters), func(m string) bool { return slices.Contains(told, m) })
	return append(inOrder(a.c.NodeName, told), inOrder(a.c.NodeName, given)...)
}

// session runs one session until it ends. served says whether the master's welcome came, for which it has patience; missed is how many
// heartbeats must be missing in a row for the master to count as silent.
func (a *Agent) session(ctx context.Context, addr string, patience time.Duration, missed int) (served bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	deadline := time.AfterFunc(patience, func() { cancel(errSilent) })
	defer deadline.Stop()
	began := guard.Now()
	conn, err := a.c.Dial(ctx, addr)
	if err != nil {
		return served, fmt.Errorf("dial %s: %w", addr, err)
	}
	defer conn.Close()
	client := nodev1.NewNodeServiceClient(conn)
	stream, err := client.Session(ctx)
	if err != nil {
		return served, err
	}
	hello := a.node.current()
	node, err := wire.Encode("v1", "Node", hello)
	if err != nil {
		return served, err
	}
	if err := stream.Send(&nodev1.SessionRequest{Message: &nodev1.SessionRequest_Hello{Hello: &nodev1.Hello{NodeName: a.c.NodeName, Node: node, AnswersBeats: true, Known: a.store.offer(), Fences: a.c.Guard != nil}}}); err != nil {
		return served, streamError(stream, err)
	}
	first, err := stream.Recv()
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return served, err
	}
	w := first.GetWelcome()
	if w == nil {
		return served, fmt.Errorf("master %s did not begin with a welcome", addr)
	}
	if !deadline.Stop() {
		return served, fmt.Errorf("master %s was too slow", addr)
	}
	served = true
	slog.Info("session begins", "master", addr)
	a.takeWelcome(w)
	a.fence.welcome(w, began)
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
	if a.node.current() != hello { // it has changed since
		a.out.nodeChanged()
	}
	if a.csi != nil {
		a.csi.Announce()
	}

	s := &session{stream: stream, spoke: make(chan struct{}, 1), moves: make(chan string, 1)}
	g, gctx := errgroup.WithContext(ctx)
	part := func(run func() error) {
		g.Go(func() error {
			err := run()
			cancel(err)
			return err
		})
	}
	part(func() error { return a.receive(s) })
	part(func() error {
		for {
			b, err := a.out.next(gctx, a.node.current)
			if err != nil {
				return err
			}
			if err := s.send(&nodev1.SessionRequest{Message: &nodev1.SessionRequest_Status{Status: b}}); err != nil {
				if errors.Is(err, io.EOF) {
					<-gctx.Done() // the receiver gets the reason
				}
				return err
			}
		}
	})
	part(func() error { return s.listen(gctx, missed) })
	part(func() error { return a.askForLeases(gctx, s) })
	if every := time.Duration(w.UsageMs) * time.Millisecond; every > 0 {
		part(func() error { return a.reportUsage(gctx, s, every) })
	}
	part(func() error {
		for {
			select {
			case to := <-s.moves:
				if a.answers(gctx, to) {
					return &moved{to: to}
				}
			case <-gctx.Done():
				return gctx.Err()
			}
		}
	})
	err = g.Wait()
	if cause := context.Cause(ctx); cause != nil && errors.Is(err, context.Canceled) {
		err = cause
	}
	return served, err
}

// askForLeases sends requests for leases when they are due.
func (a *Agent) askForLeases(ctx context.Context, s *session) error {
	ticker := time.NewTicker(fenceTick)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
		number := a.fence.due()
		if number == 0 {
			continue
		}
		if err := s.send(&nodev1.SessionRequest{Message: &nodev1.SessionRequest_Lease{Lease: &nodev1.LeaseRequest{Number: number}}}); err != nil {
			if errors.Is(err, io.EOF) {
				<-ctx.Done() // the receiver gets the reason
			}
			return err
		}
	}
}

// session is a running session's stream.
type session struct {
	stream nodev1.NodeService_SessionClient
	sendMu sync.Mutex
	sent   time.Time // guarded by sendMu

	period atomic.Int64  // between two of the master's heartbeats; 0 if it sends none
	spoke  chan struct{} // a message from the master has arrived
	busy   atomic.Bool   // processing a message
	moves  chan string   // masters to which it asks the worker to move
}

func (s *session) send(m *nodev1.SessionRequest) error {
	s.sendMu.Lock()
	defer s.sendMu.Unlock()
	s.sent = time.Now()
	return s.stream.Send(m)
}

// answer tells the master that this worker is alive, unless it has sent something recently.
func (s *session) answer() error {
	s.sendMu.Lock()
	defer s.sendMu.Unlock()
	if time.Since(s.sent) < answerPeriod {
		return nil
	}
	s.sent = time.Now()
	return s.stream.Send(&nodev1.SessionRequest{Message: &nodev1.SessionRequest_Answer{Answer: &nodev1.Answer{}}})
}

// listen ends the session if the master has fallen silent: a host that vanished sends nothing, not even a reset. Time is counted in
// heartbeat periods during which this process was running, so after a pause of its own it does not blame the master.
func (s *session) listen(ctx context.Context, most int) error {
	timer := time.NewTimer(time.Hour) // until the first beat
	defer timer.Stop()
	missed := 0
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.spoke:
			missed = 0
		case <-timer.C:
			if s.busy.Load() {
				// No messages are read while an assignment is being processed, which may wait for a slow disk.
				if err := s.answer(); err != nil && !errors.Is(err, io.EOF) {
					return err
				}
			} else if missed++; missed >= most {
				return errSilent
			}
		}
		if period := time.Duration(s.period.Load()); period > 0 {
			timer.Reset(max(period, minSilence/missedBeats))
		}
	}
}

// answers says whether a master accepts connections from here.
func (a *Agent) answers(ctx context.Context, addr string) bool {
	ctx, cancel := context.WithTimeout(ctx, welcomeTimeout)
	defer cancel()
	conn, err := a.c.Dial(ctx, addr)
	if err != nil {
		return false
	}
	defer conn.Close()
	conn.Connect()
	for {
		state := conn.GetState()
		if state == connectivity.Ready {
			return true
		}
		if !conn.WaitForStateChange(ctx, state) {
			return false
		}
	}
}

// streamError returns the error behind Send's io.EOF.
func streamError(stream nodev1.NodeService_SessionClient, err error) error {
	if errors.Is(err, io.EOF) {
		if rerr := stream.RecvMsg(&nodev1.SessionResponse{}); rerr != nil {
			return rerr
		}
	}
	return err
}

// gathered are the objects of a full set that is sent in several messages.
type gathered struct {
	first   *nodev1.Assignment
	objects []*nodev1.Object
	bytes   int
}

// add adds a message, which must belong to the same set as those before it.
func (g *gathered) add(a *nodev1.Assignment) error {
	if f := g.first; f != nil && (a.From != f.From || a.To != f.To || a.History != f.History || a.KeepsShared != f.KeepsShared) {
		return fmt.Errorf("an assignment to version %d is continued by one to version %d", f.To, a.To)
	}
	g.first, g.objects = a, append(g.objects, a.Upserts...)
	for _, o := range a.Upserts {
		g.bytes += len(o.GetValue())
	}
	if len(g.objects) > maxObjects || g.bytes > maxFull {
		return fmt.Errorf("an assignment is too large: it has %d objects of %d bytes so far", len(g.objects), g.bytes)
	}
	return nil
}

// take returns the objects of the whole set.
func (g *gathered) take() []*nodev1.Object {
	objects := g.objects
	*g = gathered{}
	return objects
}

func (a *Agent) receive(s *session) error {
	full := false
	var gathered gathered
	for {
		m, err := s.stream.Recv()
		if err != nil {
			return err
		}
		select {
		case s.spoke <- struct{}{}:
		default:
		}
		switch {
		case m.GetBeat() != nil:
			s.period.Store(int64(time.Duration(m.GetBeat().NextMs) * time.Millisecond))
			if err := s.answer(); err != nil && !errors.Is(err, io.EOF) {
				return err
			}
		case m.GetAssignment() != nil:
			as := m.GetAssignment()
			if !full && as.From != 0 {
				return errors.New("the first assignment of a session is not a full one")
			}
			full = true
			if err := gathered.add(as); err != nil {
				return err
			}
			if as.Incomplete {
				continue
			}
			as.Upserts = gathered.take()
			s.busy.Store(true)
			err := a.apply(as)
			s.busy.Store(false)
			if err != nil {
				return err // a gap: the next session begins with a full set
			}
		case m.GetStatusResult() != nil:
			r := m.GetStatusResult()
			for _, e := range r.Errors {
				slog.Warn("master refused a report", "err", e)
			}
			a.out.acknowledge(r.Sequence)
		case m.GetLease() != nil:
			a.fence.grant(s.stream.Context(), m.GetLease().Number)
		case m.GetMove() != nil:
			select {
			case s.moves <- m.GetMove().Master:
			default: // one is already pending
			}
		case m.GetWelcome() != nil: // the masters changed
			a.takeWelcome(m.GetWelcome())
		}
	}
}

func (a *Agent) takeWelcome(w *nodev1.Welcome) {
	a.mu.Lock()
	a.welcome = w
	a.mu.Unlock()
	a.store.keepWelcome(w)
	a.kick()
}

// master returns the connection to the session's master.
func (a *Agent) master() (nodev1.NodeServiceClient, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.conn == nil {
		return nil, errNoSession
	}
	return a.conn, nil
}

// certifyPod requests a certificate for a pod from the session's master.
func (a *Agent) certifyPod(ctx context.Context, r *nodev1.CertifyPodRequest) (*nodev1.CertifyPodResponse, error) {
	c, err := a.master()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second) // longer than a master waits for the signer
	defer cancel()
	return c.CertifyPod(ctx, r)
}

// createToken requests a service account token from the session's master.
func (a *Agent) createToken(ctx context.Context, r *nodev1.CreateTokenRequest) (*nodev1.CreateTokenResponse, error) {
	c, err := a.master()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return c.CreateToken(ctx, r)
}

// AuthorizeCaller asks the session's master whether the bearer of a token may make a request to this node's port.
func (a *Agent) AuthorizeCaller(ctx context.Context, r *nodev1.AuthorizeCallerRequest) (*nodev1.AuthorizeCallerResponse, error) {
	c, err := a.master()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return c.AuthorizeCaller(ctx, r)
}

// reportVolume reports the folder of a volume to the session's master.
func (a *Agent) reportVolume(ctx context.Context, r *nodev1.ReportVolumeRequest) error {
	c, err := a.master()
	if err != nil {
		return err
	}
	_, err = c.ReportVolume(ctx, r)
	return err
}
