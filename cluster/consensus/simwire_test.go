package consensus

import (
	"io"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kontiki/kontiki/cluster/mtls"
	"github.com/kontiki/kontiki/cluster/raftfix"
)

// simWire is a master's wire over a simNet. It does what raft's own transport does: heartbeats bypass raft's main loop, a pipeline
// has few calls in flight and responds in order, and a request that was sent is carried out even if its caller no longer waits.
type simWire struct {
	host     *simHost
	timeout  time.Duration
	consumer chan raft.RPC

	mu        sync.Mutex
	heartbeat func(raft.RPC)
	refuses   error // suspended, or hung up
	aborts    map[raft.ServerAddress]chan struct{}
	installed func() // called when another master has installed a snapshot from here
}

var _ raftfix.Wire = (*simWire)(nil)

func newSimWire(h *simHost, timeout time.Duration) *simWire {
	return &simWire{host: h, timeout: timeout, consumer: make(chan raft.RPC), aborts: map[raft.ServerAddress]chan struct{}{}}
}

func (w *simWire) Consumer() <-chan raft.RPC     { return w.consumer }
func (w *simWire) LocalAddr() raft.ServerAddress { return raft.ServerAddress(w.host.address) }
func (w *simWire) EncodePeer(_ raft.ServerID, address raft.ServerAddress) []byte {
	return []byte(address)
}
func (w *simWire) DecodePeer(b []byte) raft.ServerAddress { return raft.ServerAddress(b) }
func (w *simWire) Close() error                           { w.HangUp(); return nil }

func (w *simWire) SetHeartbeatHandler(f func(raft.RPC)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.heartbeat = f
}

func (w *simWire) Suspend(suspended bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.refuses == raft.ErrTransportShutdown {
		return
	}
	w.refuses = nil
	if suspended {
		w.refuses = mtls.ErrSuspended
		w.abort("")
	}
}

func (w *simWire) Cut(target raft.ServerAddress) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.abort(target)
}

func (w *simWire) HangUp() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refuses = raft.ErrTransportShutdown
	w.abort("")
}

// abort ends the calls to one host, or to all; the caller holds the lock.
func (w *simWire) abort(target raft.ServerAddress) {
	for address, abort := range w.aborts {
		if target == "" || address == target {
			close(abort)
			delete(w.aborts, address)
		}
	}
}

// begin begins a call.
func (w *simWire) begin(target raft.ServerAddress, timeout time.Duration) (simPatience, func(), error) {
	if w.host.isGone() {
		return simPatience{}, nil, errSimReset
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.refuses != nil {
		return simPatience{}, nil, w.refuses
	}
	abort := w.aborts[target]
	if abort == nil {
		abort = make(chan struct{})
		w.aborts[target] = abort
	}
	timer := time.NewTimer(timeout)
	return simPatience{timeout: timer.C, abort: abort, own: w.host.gone}, func() { timer.Stop() }, nil
}

// send transmits a request to the other end's raft.
func (w *simWire) send(to *simHost, rpc raft.RPC, p simPatience) error {
	n := w.host.net
	if err := n.cross(w.host.address, to.address, p); err != nil {
		if rpc.Reader == nil && n.coin() {
			go func() {
				if n.cross(w.host.address, to.address, simPatience{abort: to.gone, own: w.host.gone}) == nil {
					n.change(func() { n.late++ })
					to.wire.takeLate(rpc)
				}
			}()
		}
		return err
	}
	if to.isGone() {
		return to.lost(p)
	}
	return to.wire.take(rpc, p)
}

// take passes a request to raft.
func (w *simWire) take(rpc raft.RPC, p simPatience) error {
	if request, ok := rpc.Command.(*raft.AppendEntriesRequest); ok && raftfix.IsHeartbeat(request) {
		w.mu.Lock()
		heartbeat := w.heartbeat
		w.mu.Unlock()
		if heartbeat != nil {
			heartbeat(rpc)
			return nil
		}
	}
	select {
	case w.consumer <- rpc:
		return nil
	case <-w.host.gone:
		return w.host.lost(p)
	case <-p.timeout:
	case <-p.abort:
	case <-p.own:
	}
	if rpc.Reader == nil { // it is there: raft will get to it
		go w.takeLate(rpc)
	}
	return errSimGivenUp
}

// takeLate passes a request to raft whose caller no longer waits.
func (w *simWire) takeLate(rpc raft.RPC) {
	rpc.RespChan = make(chan raft.RPCResponse, 1)
	_ = w.take(rpc, simPatience{})
}

// await waits for raft's response, and transmits it back.
func (w *simWire) await(to *simHost, answers <-chan raft.RPCResponse, p simPatience) (any, error) {
	select {
	case answer := <-answers:
		if to.isGone() {
			return nil, to.lost(p)
		}
		if err := w.host.net.cross(to.address, w.host.address, p); err != nil {
			return nil, err
		}
		if w.host.isGone() {
			return nil, errSimReset
		}
		return answer.Response, answer.Error
	case <-to.gone:
		return nil, to.lost(p)
	case <-p.timeout:
		return nil, errSimGivenUp
	case <-p.abort:
		return nil, errSimGivenUp
	case <-p.own:
		return nil, errSimReset
	}
}

func simCall[Response any](w *simWire, target raft.ServerAddress, request any, data io.Reader, into *Response) error {
	timeout := w.timeout
	p, done, err := w.begin(target, timeout)
	if err != nil {
		return err
	}
	defer done()
	to, err := w.host.net.dial(string(target), p)
	if err != nil {
		return err
	}
	answers := make(chan raft.RPCResponse, 1)
	rpc := raft.RPC{Command: request, RespChan: answers}
	if data != nil {
		all, err := io.ReadAll(data)
		if err != nil {
			return err
		}
		rpc.Reader = newSimHalves(all, func() error {
			timer := time.NewTimer(timeout)
			defer timer.Stop()
			return w.host.net.cross(w.host.address, string(target), simPatience{timeout: timer.C, abort: to.gone, own: w.host.gone})
		})
	}
	if err := w.send(to, rpc, p); err != nil {
		return err
	}
	answer, err := w.await(to, answers, p)
	if response, ok := answer.(*Response); ok && response != nil {
		*into = *response
	}
	return err
}

// simCopy copies a request, as a network does, because raft reuses it.
func simCopy(request *raft.AppendEntriesRequest) *raft.AppendEntriesRequest {
	c := *request
	c.Entries = make([]*raft.Log, len(request.Entries))
	for i, entry := range request.Entries {
		e := *entry
		c.Entries[i] = &e
	}
	return &c
}

func (w *simWire) AppendEntries(_ raft.ServerID, target raft.ServerAddress, r *raft.AppendEntriesRequest, into *raft.AppendEntriesResponse) error {
	return simCall(w, target, simCopy(r), nil, into)
}

func (w *simWire) RequestVote(_ raft.ServerID, target raft.ServerAddress, r *raft.RequestVoteRequest, into *raft.RequestVoteResponse) error {
	c := *r
	return simCall(w, target, &c, nil, into)
}

func (w *simWire) RequestPreVote(_ raft.ServerID, target raft.ServerAddress, r *raft.RequestPreVoteRequest, into *raft.RequestPreVoteResponse) error {
	c := *r
	return simCall(w, target, &c, nil, into)
}

func (w *simWire) TimeoutNow(_ raft.ServerID, target raft.ServerAddress, r *raft.TimeoutNowRequest, into *raft.TimeoutNowResponse) error {
	c := *r
	return simCall(w, target, &c, nil, into)
}

func (w *simWire) InstallSnapshot(_ raft.ServerID, target raft.ServerAddress, r *raft.InstallSnapshotRequest, into *raft.InstallSnapshotResponse, data io.Reader) error {
	c := *r
	err := simCall(w, target, &c, data, into)
	if err == nil && into.Success && w.installed != nil {
		w.installed()
	}
	return err
}

// simPipeline sends one request after the other, and reads responses in order, as raft's own does: it stops both while two
// responses have not been read.
type simPipeline struct {
	wire    *simWire
	to      *simHost
	sent    chan *simAppend
	pending chan *simAppend
	done    chan raft.AppendFuture
	closed  chan struct{}
	once    sync.Once
}

type simAppend struct {
	start    time.Time
	request  *raft.AppendEntriesRequest
	response *raft.AppendEntriesResponse
	answers  chan raft.RPCResponse
	answered chan struct{} // closed once err is set
	err      error
}

func (a *simAppend) Error() error                          { <-a.answered; return a.err }
func (a *simAppend) Start() time.Time                      { return a.start }
func (a *simAppend) Request() *raft.AppendEntriesRequest   { return a.request }
func (a *simAppend) Response() *raft.AppendEntriesResponse { return a.response }

func (w *simWire) AppendEntriesPipeline(_ raft.ServerID, target raft.ServerAddress) (raft.AppendPipeline, error) {
	patience, done, err := w.begin(target, w.timeout)
	if err != nil {
		return nil, err
	}
	defer done()
	to, err := w.host.net.dial(string(target), patience)
	if err != nil {
		return nil, err
	}
	p := &simPipeline{
		wire: w, to: to, sent: make(chan *simAppend, 2), pending: make(chan *simAppend), done: make(chan raft.AppendFuture), closed: make(chan struct{}),
	}
	go p.carry()
	go p.read()
	return p, nil
}

// carry transmits requests to the other end.
func (p *simPipeline) carry() {
	for {
		select {
		case a := <-p.sent:
			patience, done, err := p.wire.begin(raft.ServerAddress(p.to.address), p.wire.timeout)
			if err == nil {
				err = p.wire.send(p.to, raft.RPC{Command: simCopy(a.request), RespChan: a.answers}, patience)
				done()
			}
			if err != nil {
				// The connection is broken: nothing that follows arrives, and callers that wait get an error.
				a.answers <- raft.RPCResponse{Error: err}
				for {
					select {
					case a := <-p.sent:
						a.answers <- raft.RPCResponse{Error: err}
					case <-p.closed:
						return
					}
				}
			}
		case <-p.closed:
			return
		}
	}
}

// read reads responses.
func (p *simPipeline) read() {
	for {
		select {
		case a := <-p.pending:
			a.err = p.answer(a)
			close(a.answered)
			select {
			case p.done <- a:
			case <-p.closed:
				return
			}
		case <-p.closed:
			return
		}
	}
}

func (p *simPipeline) answer(a *simAppend) error {
	patience, done, err := p.wire.begin(raft.ServerAddress(p.to.address), p.wire.timeout)
	if err != nil {
		return err
	}
	defer done()
	answer, err := p.wire.await(p.to, a.answers, patience)
	if response, ok := answer.(*raft.AppendEntriesResponse); ok && response != nil {
		*a.response = *response
	}
	return err
}

func (p *simPipeline) AppendEntries(request *raft.AppendEntriesRequest, response *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	a := &simAppend{start: time.Now(), request: request, response: response, answers: make(chan raft.RPCResponse, 1), answered: make(chan struct{})}
	select {
	case p.sent <- a:
	case <-p.closed:
		return nil, raft.ErrPipelineShutdown
	}
	select {
	case p.pending <- a:
		return a, nil
	case <-p.closed:
		return nil, raft.ErrPipelineShutdown
	}
}

func (p *simPipeline) Consumer() <-chan raft.AppendFuture { return p.done }

func (p *simPipeline) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}
