package nodes

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/internal/contain"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

// maxChunk limits the objects of one message in bytes, so that no message comes near gRPC's limit.
const maxChunk = 1 << 20

const (
	// beatPeriod is the interval between two heartbeats while there are few workers: a master sends at most maxBeats per second, so
	// each worker gets fewer if there are many.
	beatPeriod = 300 * time.Millisecond
	maxBeats   = 500
	// A worker answers every second. It counts as quiet when two answers are missing, and its session ends when ten are. Time in
	// which this master was paused does not count.
	quietAfter, endAfter = 2500 * time.Millisecond, 10 * time.Second
	silenceTick          = 250 * time.Millisecond
	// detachedLimit is how long a master without a leader keeps its workers: longer than an election takes.
	detachedLimit = 3 * time.Second
	// beginLimit is how long a session's first write may take: longer than an election takes.
	beginLimit = 5 * time.Second
	// batchesAhead is how many received reports may wait to be stored; workers send up to two ahead.
	batchesAhead = 4
)

// session is one worker's stream. Sends come from several goroutines and are serialized.
type session struct {
	*Server
	node    string
	stream  nodev1.NodeService_SessionServer
	log     *slog.Logger
	sendMu  sync.Mutex
	answers bool        // the worker answers heartbeats
	heard   atomic.Bool // a message has arrived since silence last checked
	batches chan *nodev1.StatusBatch
	begun   chan struct{} // closed once the node is registered
	events  *rate.Limiter
	end     context.CancelCauseFunc
}

// run runs the session until one of its parts fails. The welcome is sent before anything is written, so that a worker finds a new
// master also during an election.
func (s *session) run(ctx context.Context, node []byte) error {
	masters := s.Masters()
	if err := s.welcome(masters); err != nil {
		return err
	}
	s.log.Info("worker connected")
	ctx, cancel := context.WithCancelCause(ctx)
	s.end = cancel
	var parts sync.WaitGroup
	defer parts.Wait()
	defer cancel(nil)
	s.attendance.set(s, Connected)
	defer s.attendance.set(s, Gone) // before the parts have ended, so that the leader learns it at once
	failed := make(chan error, 5)
	for _, part := range []func(context.Context) error{
		func(ctx context.Context) error {
			if err := s.begin(ctx, node); err != nil {
				return err
			}
			close(s.begun)
			return s.assign(ctx)
		},
		func(ctx context.Context) error { return s.beat(ctx, masters) },
		s.silence,
		s.reports,
	} {
		parts.Go(func() { failed <- s.contained(ctx, part) })
	}
	// receive is not waited for: gRPC ends it when this handler has returned.
	go func() { failed <- s.contained(ctx, s.receive) }()
	select {
	case err := <-failed:
		if ctx.Err() != nil { // a part may end before this is seen, because the session was ended
			return context.Cause(ctx)
		}
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// contained runs a part of the session. A panic ends the session, not the process.
func (s *session) contained(ctx context.Context, part func(context.Context) error) error {
	err := contain.Run(func() error { return part(ctx) })
	if stack := contain.Stack(err); stack != "" {
		s.log.Error("a worker's session panicked", "error", err, "stack", stack)
		return status.Error(codes.Internal, "the session caused this master to panic; look in its logs")
	}
	return err
}

func (s *session) send(message *nodev1.SessionResponse) error {
	s.sendMu.Lock()
	defer s.sendMu.Unlock()
	return s.stream.Send(message)
}

func (s *session) welcome(masters []string) error {
	dns := make([]string, 0, len(s.ClusterDNS))
	for _, address := range s.ClusterDNS {
		dns = append(dns, address.String())
	}
	return s.send(&nodev1.SessionResponse{Message: &nodev1.SessionResponse_Welcome{Welcome: &nodev1.Welcome{
		Masters: masters, ClusterDomain: s.ClusterDomain, ClusterDns: dns, ServiceCidr: s.ServiceRange.String(), PodCidr: s.PodRange.String(),
	}}})
}

// beat sends heartbeats to the worker, and the addresses of masters when they change. It ends the session if this master has lost
// the others: they can serve the worker, and this one cannot.
func (s *session) beat(ctx context.Context, masters []string) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		if away := s.Detached(); away > detachedLimit {
			return status.Errorf(codes.Unavailable, "this master has had no leader for %s", away.Round(time.Second))
		}
		if now := s.Masters(); !slices.Equal(now, masters) {
			masters = now
			if err := s.welcome(masters); err != nil {
				return err
			}
		}
		period := max(beatPeriod, time.Duration(s.attendance.count())*time.Second/maxBeats)
		if err := s.send(&nodev1.SessionResponse{Message: &nodev1.SessionResponse_Beat{Beat: &nodev1.Beat{NextMs: uint32(period.Milliseconds())}}}); err != nil {
			return err
		}
		timer.Reset(period)
	}
}

// silence records when the worker stops answering, and ends the session if it does not resume.
func (s *session) silence(ctx context.Context) error {
	if !s.answers {
		<-ctx.Done()
		return ctx.Err()
	}
	ticker := time.NewTicker(silenceTick)
	defer ticker.Stop()
	var silent time.Duration
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		// Heartbeats are less frequent if there are many workers.
		quiet := max(quietAfter, 3*time.Duration(s.attendance.count())*time.Second/maxBeats)
		was := silent >= quiet
		if silent += silenceTick; s.heard.Swap(false) {
			silent = 0
		}
		switch is := silent >= quiet; {
		case silent >= endAfter:
			return status.Errorf(codes.Unavailable, "worker %s has not answered for %s", s.node, silent)
		case is && !was:
			s.log.Info("worker does not answer", "for", silent)
			s.attendance.set(s, Quiet)
		case was && !is:
			s.attendance.set(s, Connected)
		}
	}
}

// begin registers the node and waits until the local view is at least as new as what another master may have sent the worker.
func (s *session) begin(ctx context.Context, node []byte) error {
	ctx, cancel := context.WithTimeout(ctx, beginLimit)
	defer cancel()
	if err := s.register(ctx, s.node, node); err != nil {
		s.log.Warn("node could not be registered", "error", err)
		return err
	}
	if _, err := s.Client.Consistent(ctx); err != nil {
		return fmt.Errorf("consistent read for the assignment: %w", err)
	}
	return nil
}

// assign sends the full assignment and then every change to it.
func (s *session) assign(ctx context.Context) error {
	select {
	case <-s.dispatcher.ready:
	case <-ctx.Done():
		return ctx.Err()
	}
	changes := s.dispatcher.subscribe(s.node)
	defer changes.Close()
	for {
		changes.reset()
		known := newAssignment(s.node, s.encodings, s.Client.View, changes)
		v := s.Client.View()
		if err := s.registered(v); err != nil {
			return err
		}
		upserts, _, err := known.message(known.full(v))
		if err != nil {
			return err
		}
		if err := s.sendFull(v.Revision(), upserts); err != nil {
			return err
		}
		if err := s.follow(ctx, known, v.Revision(), changes); err != nil {
			return err
		}
		known.end()
	}
}

// follow sends the changes after a full set of some version. It returns nil if changes are missing.
func (s *session) follow(ctx context.Context, known *assignment, full uint64, changes *subscription) error {
	version := full
	for {
		events, ok, err := changes.next(ctx)
		if err != nil || !ok {
			return err
		}
		events = slices.DeleteFunc(events, func(e client.Event) bool { return e.Revision <= full })
		if len(events) == 0 {
			continue
		}
		if lost(events, s.node) {
			return status.Errorf(codes.Unavailable, "node %s was marked as lost meanwhile: its worker must report again", s.node)
		}
		if deleted(events, s.node) {
			if err := s.registered(s.Client.View()); err != nil {
				return err
			}
		}
		d := newDelta()
		known.apply(d, events)
		upserts, deletes, err := known.message(d)
		if err != nil {
			return err
		}
		if len(upserts)+len(deletes) == 0 {
			continue
		}
		from := version
		version = events[len(events)-1].Revision
		if err := s.sendDelta(from, version, upserts, deletes); err != nil {
			return err
		}
	}
}

// lost says whether one of the events marked the node as unknown. Only a new session undoes that: the worker may not have noticed
// that it was silent.
func lost(events []client.Event, node string) bool {
	unknown := func(obj client.Object) bool {
		n, ok := obj.(*corev1.Node)
		if !ok || n.Name != node {
			return false
		}
		for _, c := range n.Status.Conditions {
			if c.Type == corev1.NodeReady {
				return c.Status == corev1.ConditionUnknown
			}
		}
		return false
	}
	return slices.ContainsFunc(events, func(e client.Event) bool { return e.New != nil && unknown(e.New) && (e.Old == nil || !unknown(e.Old)) })
}

// deleted says whether one of the events is the node's deletion.
func deleted(events []client.Event, node string) bool {
	return slices.ContainsFunc(events, func(e client.Event) bool {
		n, ok := e.Old.(*corev1.Node)
		return ok && e.New == nil && n.Name == node
	})
}

// registered ends the session of a worker whose Node does not exist: it was deleted, or an older snapshot was restored. The
// worker's next session registers it again.
func (s *session) registered(v client.View) error {
	if _, ok := client.Get[*corev1.Node](v, "", s.node); ok {
		return nil
	}
	return status.Errorf(codes.Unavailable, "node %s is no longer registered: its worker must register it again", s.node)
}

// sendFull sends a full set, in as many messages as its size requires.
func (s *session) sendFull(version uint64, upserts []*nodev1.Object) error {
	for {
		size, n := 0, 0
		for n < len(upserts) && (n == 0 || size+len(upserts[n].Value) <= maxChunk) {
			size += len(upserts[n].Value)
			n++
		}
		more := n < len(upserts)
		if err := s.sendAssignment(&nodev1.Assignment{To: version, Upserts: upserts[:n], Incomplete: more}); err != nil || !more {
			return err
		}
		upserts = upserts[n:]
	}
}

func (s *session) sendDelta(from, to uint64, upserts []*nodev1.Object, deletes []*nodev1.ObjectKey) error {
	return s.sendAssignment(&nodev1.Assignment{From: from, To: to, Upserts: upserts, Deletes: deletes})
}

func (s *session) sendAssignment(a *nodev1.Assignment) error {
	return s.send(&nodev1.SessionResponse{Message: &nodev1.SessionResponse_Assignment{Assignment: a}})
}

// receive reads the worker's messages. It waits for nothing else: a worker whose reports take long to store is not silent.
func (s *session) receive(ctx context.Context) error {
	for {
		message, err := s.stream.Recv()
		if err != nil {
			return err
		}
		s.heard.Store(true)
		if message.GetAnswer() != nil {
			continue
		}
		batch := message.GetStatus()
		if batch == nil {
			return status.Error(codes.InvalidArgument, "after hello a worker sends status batches and answers only")
		}
		select {
		case s.batches <- batch:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// reports stores the worker's reports, in order.
func (s *session) reports(ctx context.Context) error {
	select {
	case <-s.begun:
	case <-ctx.Done():
		return ctx.Err()
	}
	for {
		select {
		case batch := <-s.batches:
			problems := s.report(ctx, batch)
			if ctx.Err() != nil {
				return ctx.Err() // some of it may not be stored: the worker will send it again
			}
			if err := s.send(&nodev1.SessionResponse{Message: &nodev1.SessionResponse_StatusResult{StatusResult: &nodev1.StatusResult{
				Sequence: batch.Sequence, Errors: problems,
			}}}); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
