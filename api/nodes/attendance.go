package nodes

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	clusterv1 "github.com/kontiki/kontiki/proto/kontiki/cluster/v1"
)

// State is the state of a worker's session, according to one master or all of them.
type State string

// The states of a worker's session.
const (
	Connected State = "connected"
	Quiet     State = "quiet" // it is open, but the worker has stopped answering
	Gone      State = "gone"
)

// attendance tracks which workers have a session with this master. A worker may briefly have two: a new one, and an old one that
// has not yet been recognized as broken.
type attendance struct {
	mu       sync.Mutex
	sessions map[string]map[*session]State
	watchers map[*attendanceWatcher]struct{}
}

func newAttendance() *attendance {
	return &attendance{sessions: map[string]map[*session]State{}, watchers: map[*attendanceWatcher]struct{}{}}
}

// set records the state of one session of a worker, and informs the watchers if that changes the worker's state.
func (a *attendance) set(s *session, state State) {
	a.mu.Lock()
	defer a.mu.Unlock()
	before := a.state(s.node)
	if state == Gone {
		if delete(a.sessions[s.node], s); len(a.sessions[s.node]) == 0 {
			delete(a.sessions, s.node)
		}
	} else {
		if a.sessions[s.node] == nil {
			a.sessions[s.node] = map[*session]State{}
		}
		a.sessions[s.node][s] = state
		a.endSurplus(s)
	}
	now := a.state(s.node)
	if now == before {
		return
	}
	for w := range a.watchers {
		w.changed[s.node] = now
		w.poke()
	}
}

// maxSessions limits the sessions that one worker has with this master: each needs a copy of its assignment.
const maxSessions = 4

// endSurplus ends older sessions of a worker that has too many. The caller holds mu.
func (a *attendance) endSurplus(newest *session) {
	surplus := len(a.sessions[newest.node]) - maxSessions
	for s := range a.sessions[newest.node] {
		if surplus <= 0 {
			return
		}
		if s != newest && s.end != nil {
			s.end(status.Errorf(codes.ResourceExhausted, "worker %s has more than %d sessions with this master", s.node, maxSessions))
			surplus--
		}
	}
}

// state returns the best state of a worker's sessions. The caller holds mu.
func (a *attendance) state(node string) State {
	state := Gone
	for _, s := range a.sessions[node] {
		if state = s; s == Connected {
			break
		}
	}
	return state
}

// count returns how many workers have a session here.
func (a *attendance) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.sessions)
}

// some returns at most n randomly chosen sessions of workers that can be asked to move.
func (a *attendance) some(n int) (out []*session) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, sessions := range a.sessions { // Go's map iteration begins at a random entry
		for s, state := range sessions {
			if len(out) < n && s.answers && state == Connected {
				out = append(out, s)
			}
		}
	}
	return out
}

// attendanceWatcher collects changes until they are read; several changes of one worker are merged.
type attendanceWatcher struct {
	changed map[string]State // guarded by attendance.mu
	wake    chan struct{}
}

func (w *attendanceWatcher) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// watch calls tell with all workers that have a session, then with every change, and with no workers when nothing changed for a
// period.
func (a *attendance) watch(ctx context.Context, period time.Duration, tell func(full bool, workers map[string]State) error) error {
	w := &attendanceWatcher{changed: map[string]State{}, wake: make(chan struct{}, 1)}
	a.mu.Lock()
	for node := range a.sessions {
		w.changed[node] = a.state(node)
	}
	a.watchers[w] = struct{}{}
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		delete(a.watchers, w)
		a.mu.Unlock()
	}()
	timer := time.NewTimer(period)
	defer timer.Stop()
	for full := true; ; full = false {
		a.mu.Lock()
		changed := w.changed
		w.changed = map[string]State{}
		a.mu.Unlock()
		if err := tell(full, changed); err != nil {
			return err
		}
		timer.Reset(period)
		select {
		case <-w.wake:
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// watchBeat is the longest interval between two messages to a watcher of sessions.
const watchBeat = time.Second

// sessionService reports to the other masters which workers have a session here.
type sessionService struct {
	clusterv1.UnimplementedSessionServiceServer
	attendance *attendance
}

// RegisterSessions registers the service that Census reads on the masters' own gRPC server.
func (s *Server) RegisterSessions(registrar grpc.ServiceRegistrar) {
	clusterv1.RegisterSessionServiceServer(registrar, sessionService{attendance: s.attendance})
}

var (
	toProto   = map[State]clusterv1.WorkerSession_State{Connected: clusterv1.WorkerSession_STATE_CONNECTED, Quiet: clusterv1.WorkerSession_STATE_QUIET, Gone: clusterv1.WorkerSession_STATE_GONE}
	fromProto = map[clusterv1.WorkerSession_State]State{clusterv1.WorkerSession_STATE_CONNECTED: Connected, clusterv1.WorkerSession_STATE_QUIET: Quiet, clusterv1.WorkerSession_STATE_GONE: Gone}
)

// WatchSessions implements SessionService.
func (s sessionService) WatchSessions(_ *clusterv1.WatchSessionsRequest, stream clusterv1.SessionService_WatchSessionsServer) error {
	return sessionError(s.attendance.watch(stream.Context(), watchBeat, func(full bool, workers map[string]State) error {
		response := &clusterv1.WatchSessionsResponse{Full: full}
		for name, state := range workers {
			response.Workers = append(response.Workers, &clusterv1.WorkerSession{Name: name, State: toProto[state]})
		}
		return stream.Send(response)
	}))
}
