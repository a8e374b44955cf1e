package usage

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/internal/contain"
	clusterv1 "github.com/kontiki/kontiki/proto/kontiki/cluster/v1"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

const (
	// freshFor is how long what was read of other masters is used again.
	freshFor = time.Second
	// readTime limits reading from another master.
	readTime = time.Second
	// oldPause is how long a master is not asked again that does not serve the read.
	oldPause = time.Minute
	// maxWorkers limits of how many workers another master may tell.
	maxWorkers = 50_000
)

// Config says where a Directory finds the other masters.
type Config struct {
	Local *Local
	// Own is the address of this master's mTLS port, and Masters returns those of all masters; nil means that there are no others.
	Own     string
	Masters func() []string
	// Connect returns a connection to a master's own services, which is not closed.
	Connect func(address string) (grpc.ClientConnInterface, error)
	Log     *slog.Logger
}

// Directory knows the newest reports of the workers of all masters. It is safe for concurrent use.
type Directory struct {
	Config
	turn  chan struct{}    // holds an element while somebody reads
	read  time.Time        // when the other masters were read last; guarded by turn
	peers map[string]*peer // by address; guarded by turn
}

// peer is what is known of another master.
type peer struct {
	instance string
	number   uint64
	notUntil time.Time // it does not serve the read
	mu       sync.Mutex
	reports  map[string]report
}

// NewDirectory returns a Directory that has read nothing.
func NewDirectory(c Config) *Directory {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return &Directory{Config: c, turn: make(chan struct{}, 1), peers: map[string]*peer{}}
}

// Now returns what the workers reported last. It reads from other masters what is new there, for at most a second.
func (d *Directory) Now(ctx context.Context) *Snapshot {
	s := &Snapshot{now: time.Now(), reports: map[string]report{}, decoded: map[string]*worker{}}
	select {
	case d.turn <- struct{}{}:
		d.refresh(ctx)
		for _, p := range d.peers {
			p.mu.Lock()
			s.add(p.reports)
			p.mu.Unlock()
		}
		<-d.turn
	case <-ctx.Done():
	}
	d.Local.mu.Lock()
	s.add(d.Local.reports)
	d.Local.mu.Unlock()
	return s
}

// refresh reads the other masters, all at once, unless that was just done. The caller has the turn.
func (d *Directory) refresh(ctx context.Context) {
	if d.Masters == nil || time.Since(d.read) < freshFor {
		return
	}
	known := map[string]*peer{}
	for _, address := range d.Masters() {
		if address == d.Own {
			continue
		}
		if known[address] = d.peers[address]; known[address] == nil {
			known[address] = &peer{reports: map[string]report{}}
		}
	}
	d.peers = known
	ctx, cancel := context.WithTimeout(ctx, readTime)
	defer cancel()
	var group errgroup.Group
	for address, p := range known {
		group.Go(func() error {
			err := contain.Run(func() error { return d.readOne(ctx, address, p) })
			if err != nil && ctx.Err() == nil {
				d.Log.Debug("the usage of another master's workers cannot be read", "master", address, "error", err)
			}
			return nil
		})
	}
	_ = group.Wait() // they return no errors
	d.read = time.Now()
}

// readOne reads what is new on one master.
func (d *Directory) readOne(ctx context.Context, address string, p *peer) error {
	now := time.Now()
	p.mu.Lock()
	dropOld(p.reports, now)
	p.mu.Unlock()
	if now.Before(p.notUntil) {
		return nil
	}
	conn, err := d.Connect(address)
	if err != nil {
		return err
	}
	stream, err := clusterv1.NewUsageServiceClient(conn).ReadUsage(ctx, &clusterv1.ReadUsageRequest{Instance: p.instance, After: p.number})
	if err != nil {
		return err
	}
	for {
		m, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case status.Code(err) == codes.Unimplemented:
			p.notUntil = now.Add(oldPause)
			return err
		case err != nil:
			return err // what has not come comes with the next read
		}
		p.mu.Lock()
		if m.Instance != p.instance {
			p.instance, p.number = m.Instance, 0
			clear(p.reports)
		}
		for _, w := range m.Workers {
			if len(w.Report) <= maxReport && (len(p.reports) < maxWorkers || p.reports[w.Name].encoded != nil) {
				p.reports[w.Name] = report{arrived: now.Add(-time.Duration(min(w.AgeMs, uint64(Lifetime.Milliseconds())+1)) * time.Millisecond), encoded: w.Report}
			}
		}
		if m.Number != 0 {
			p.number = m.Number
		}
		p.mu.Unlock()
	}
}

// Snapshot is what the workers had reported at one time. It is for one goroutine.
type Snapshot struct {
	now     time.Time
	reports map[string]report
	decoded map[string]*worker
}

// worker is a decoded report.
type worker struct {
	report *nodev1.UsageReport
	pods   map[podKey]*nodev1.PodUsage
}

// podKey identifies a pod of a report. A static pod's UID is not that of the pod in the API, which shows it.
type podKey struct{ namespace, name, uid string }

// add adds reports that still count; of two of a worker the one that arrived last stays.
func (s *Snapshot) add(reports map[string]report) {
	for name, r := range reports {
		if s.now.Sub(r.arrived) <= Lifetime && r.arrived.After(s.reports[name].arrived) {
			s.reports[name] = r
		}
	}
}

func (s *Snapshot) worker(name string) *worker {
	if w, done := s.decoded[name]; done {
		return w
	}
	var w *worker
	if r, ok := s.reports[name]; ok {
		if decoded, err := decode(r.encoded); err == nil {
			w = &worker{report: decoded, pods: make(map[podKey]*nodev1.PodUsage, len(decoded.Pods))}
			for _, p := range decoded.Pods {
				w.pods[podKey{p.Namespace, p.Name, p.Uid}] = p
			}
		}
	}
	s.decoded[name] = w
	return w
}

// Node returns what a node uses; nil if its worker has not reported within Lifetime.
func (s *Snapshot) Node(name string) *nodev1.NodeUsage {
	if w := s.worker(name); w != nil {
		return w.report.Node
	}
	return nil
}

// EachPod calls visit with the pods that workers reported, and the workers' nodes.
func (s *Snapshot) EachPod(visit func(node string, p *nodev1.PodUsage)) {
	for name := range s.reports {
		if w := s.worker(name); w != nil {
			for _, p := range w.report.Pods {
				visit(name, p)
			}
		}
	}
}

// Pod returns what a pod uses, as the worker of the node reports that it is bound to; nil if that has not reported it.
func (s *Snapshot) Pod(pod *corev1.Pod) *nodev1.PodUsage {
	if pod.Spec.NodeName == "" {
		return nil
	}
	w := s.worker(pod.Spec.NodeName)
	if w == nil {
		return nil
	}
	return w.pods[podKey{pod.Namespace, pod.Name, UIDOnNode(pod)}]
}

// UIDOnNode returns the UID that a pod has on its node: that of a static pod is in its mirror pod's annotation.
func UIDOnNode(pod *corev1.Pod) string {
	if uid := pod.Annotations[corev1.MirrorPodAnnotationKey]; uid != "" {
		return uid
	}
	return string(pod.UID)
}

// Owns says whether a reported pod is a pod of the API that is bound to a node.
func Owns(pod *corev1.Pod, node string, p *nodev1.PodUsage) bool {
	return pod.Spec.NodeName == node && UIDOnNode(pod) == p.Uid
}
