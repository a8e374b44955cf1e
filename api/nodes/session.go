package nodes

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kontiki/kontiki/api/allocate"
	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/internal/contain"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

// maxChunk limits the objects of one message in bytes. Heartbeats go between the messages of a full set, and each message is a sign of
// life, so one must not take long on a slow network either.
const maxChunk = 64 << 10

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
	// catchUp is how long a session waits until changes that its worker has seen elsewhere have been dispatched here.
	catchUp = 200 * time.Millisecond
	// registering limits how many sessions do their first write at a time, and fullSets how many are sent a full set; fullSetTurn is how
	// long one that does not read keeps others waiting.
	registering, fullSets = 32, 16
	fullSetTurn           = 10 * time.Second
)

// session is one worker's stream. Sends come from several goroutines and are serialized.
type session struct {
	*Server
	node    string
	stream  nodev1.NodeService_SessionServer
	log     *slog.Logger
	sendMu  sync.Mutex
	answers bool          // the worker answers heartbeats
	known   *nodev1.Known // what the worker said it has; nil if it does not understand differences
	heard   atomic.Bool   // a message has arrived since silence last checked
	batches chan *nodev1.StatusBatch
	begun   chan struct{}  // closed once the node is registered
	writes  *client.Client // stores the reports; set by the first
	events  *rate.Limiter
	end     context.CancelCauseFunc

	fences     bool // the worker asks for leases
	leaseAsked atomic.Uint64
	wantsLease chan struct{}

	usageTaken time.Time // when a report of usage was taken last; used by receive
}

// run runs the session until one of its parts fails. The welcome is sent before anything is written, so that a worker finds a new
// master also during an election.
func (s *session) run(ctx context.Context, node []byte) (err error) {
	masters := s.Masters()
	if err := s.welcome(masters); err != nil {
		return err
	}
	s.log.Info("worker connected")
	defer func() { s.log.Info("worker disconnected", "reason", err) }()
	ctx, cancel := context.WithCancelCause(ctx)
	s.end = cancel
	var parts sync.WaitGroup
	defer parts.Wait()
	defer cancel(nil)
	s.attendance.set(s, Connected)
	defer s.attendance.set(s, Gone) // before the parts have ended, so that the leader learns it at once
	failed := make(chan error, 6)
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
		s.leases,
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
		Masters: masters, ClusterDomain: s.ClusterDomain, ClusterDns: dns, ServiceCidr: s.ServiceRange.String(), PodCidr: s.PodRange.String(), LeaseMs: uint32(s.Lease.Milliseconds()), UsageMs: s.usagePeriod(),
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
	select {
	case s.registering <- struct{}{}:
		defer func() { <-s.registering }()
	case <-ctx.Done():
		return ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, beginLimit)
	defer cancel()
	lease := time.Duration(0)
	if s.fences {
		lease = s.Lease
	}
	if err := s.register(ctx, s.node, node, lease); err != nil {
		s.log.Warn("node could not be registered", "error", err)
		if apierrors.HasStatusCause(err, allocate.PodRangeFull) { // the worker waits for longer than if it could try another master
			return status.Error(codes.ResourceExhausted, err.Error())
		}
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
		known := newAssignment(s.node, s.Client.View, changes)
		version, own, err := s.assignAnew(ctx, known, changes)
		if err != nil {
			return err
		}
		if version, err = s.follow(ctx, known, version, own, changes); err != nil {
			return err
		}
		known.end()
		if s.known != nil { // it has what it was sent: the difference to that is enough
			s.known = &nodev1.Known{History: s.history(s.Client.View()), Version: version}
		}
	}
}

// assignAnew sends what a session begins with: all of the worker's own objects, and the shared ones, as a whole or as the difference from
// the version that the worker has. It returns the version that the worker has then, which is the revision up to which the shared objects
// are complete, and the revision of the view that its own objects are of.
func (s *session) assignAnew(ctx context.Context, known *assignment, changes *subscription) (version, own uint64, err error) {
	v := s.Client.View()
	if err := s.registered(v); err != nil {
		return 0, 0, err
	}
	history := s.history(v)
	has := uint64(0)
	if s.known != nil && history != "" && s.known.History == history && s.known.Version <= v.Revision() {
		has = s.known.Version
	}
	if err := s.dispatcher.await(ctx, s.nodeRevision(v)); err != nil {
		return 0, 0, err
	}
	// The worker may have it from another master, whose dispatcher was ahead of this one's. It may also be a revision at which nothing was
	// dispatched, so the wait is short; without it, the worker is sent some changes again.
	within, cancel := context.WithTimeout(ctx, catchUp)
	_ = s.dispatcher.await(within, has)
	cancel()
	state, ok := changes.start(has, false)
	if !ok {
		done, err := s.turns.take(ctx, s.node)
		if err != nil {
			return 0, 0, err
		}
		defer done()
		state, _ = changes.start(has, true)
	}
	v = s.Client.View() // after start
	if err := s.registered(v); err != nil {
		return 0, 0, err
	}
	upserts, _, err := known.message(known.full(v))
	if err != nil {
		return 0, 0, err
	}
	first := &nodev1.Assignment{To: state.revision, History: history, KeepsShared: state.set == nil}
	ownNode := nodeKey(s.node)
	changed, deletes := split(state.changes, ownNode)
	all := func(yield func(*nodev1.Object) bool) {
		if state.set != nil {
			for _, o := range state.set.objects {
				if (o.Key.Name != ownNode.name || o.Key.Resource != ownNode.resource) && !yield(o) {
					return
				}
			}
		}
		for _, o := range changed {
			if !yield(o) {
				return
			}
		}
		for _, o := range upserts {
			if !yield(o) {
				return
			}
		}
	}
	return state.revision, v.Revision(), s.sendFull(first, all, deletes)
}

// nodeRevision returns the revision at which the worker's Node was stored last.
func (s *session) nodeRevision(v client.View) uint64 {
	n, ok := client.Get[*corev1.Node](v, "", s.node)
	if !ok {
		return 0
	}
	revision, _ := objects.ParseRevision(n.ResourceVersion)
	return revision
}

// history identifies the history that a view is of.
func (s *session) history(v client.View) string {
	if s.History == nil {
		return ""
	}
	return s.History(v.View)
}

// follow sends the changes after a version; the worker's own objects are of the revision own. It returns the version that the worker has
// if changes are missing.
func (s *session) follow(ctx context.Context, known *assignment, version, own uint64, changes *subscription) (uint64, error) {
	for {
		next, ok, err := changes.next(ctx)
		if err != nil || !ok {
			return version, err
		}
		began := time.Now()
		var events []client.Event
		var shared []sharedChange
		for _, c := range next {
			switch {
			case c.shared != nil:
				shared = append(shared, *c.shared)
			case c.revision > own:
				events = append(events, c.event)
			}
		}
		if lost(events, s.node) {
			return version, status.Errorf(codes.Unavailable, "node %s was marked as lost meanwhile: its worker must report again", s.node)
		}
		if deleted(events, s.node) {
			if err := s.registered(s.Client.View()); err != nil {
				return version, err
			}
		}
		d := newDelta()
		known.apply(d, events)
		upserts, deletes, err := known.message(d)
		if err != nil {
			return version, err
		}
		changed, gone := split(lastOfEach(shared), nodeKey(s.node))
		upserts, deletes = append(upserts, changed...), append(deletes, gone...)
		if len(upserts)+len(deletes) == 0 {
			continue
		}
		from := version
		version = next[len(next)-1].revision
		if err := s.sendAssignment(&nodev1.Assignment{From: from, To: version, Upserts: upserts, Deletes: deletes}); err != nil {
			return version, err
		}
		s.noteDelivered(events, began)
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

// sendFull sends a full set, in as many messages as its size requires, each of which is like first.
func (s *session) sendFull(first *nodev1.Assignment, upserts iter.Seq[*nodev1.Object], deletes []*nodev1.ObjectKey) error {
	message := func(chunk []*nodev1.Object) *nodev1.Assignment {
		return &nodev1.Assignment{To: first.To, History: first.History, KeepsShared: first.KeepsShared, Upserts: chunk}
	}
	var chunk []*nodev1.Object
	size := 0
	for o := range upserts {
		if size+len(o.Value) > maxChunk && len(chunk) > 0 {
			incomplete := message(chunk)
			incomplete.Incomplete = true
			if err := s.sendAssignment(incomplete); err != nil {
				return err
			}
			chunk, size = nil, 0
		}
		chunk, size = append(chunk, o), size+len(o.Value)
	}
	complete := message(chunk)
	complete.Deletes = deletes
	return s.sendAssignment(complete)
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
		if request := message.GetLease(); request != nil {
			s.askLease(request.Number)
			continue
		}
		if report := message.GetUsage(); report != nil {
			s.takeUsage(report)
			continue
		}
		batch := message.GetStatus()
		if batch == nil {
			return status.Error(codes.InvalidArgument, "after hello a worker sends status batches, answers, requests for leases and reports of usage only")
		}
		select {
		case s.batches <- batch:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// reports stores the worker's reports, in order. Before it stores the first, it puts an end to the reports of the worker's earlier
// sessions: another master may still try to store one, and would replace what this session reports by what was so before, for as long
// as nothing changes.
func (s *session) reports(ctx context.Context) error {
	select {
	case <-s.begun:
	case <-ctx.Done():
		return ctx.Err()
	}
	for {
		select {
		case batch := <-s.batches:
			if s.writes == nil {
				var err error
				if s.writes, err = s.writer(ctx); err != nil {
					return err
				}
			}
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

// writer returns the client with which this session stores reports.
func (s *session) writer(ctx context.Context) (*client.Client, error) {
	if s.Fence == nil {
		return s.Client, nil
	}
	return s.Fence(ctx, objects.WorkerFence(s.node))
}
