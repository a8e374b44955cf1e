// Package timelines gathers what masters and the pod's worker keep in memory of the steps of a pod's start (internal/timeline). Any master
// answers: it asks the others and the worker when somebody asks it. Nothing is sent otherwise, and nothing is stored.
package timelines

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/api/agents"
	"github.com/kontiki/kontiki/internal/contain"
	"github.com/kontiki/kontiki/internal/timeline"
	"github.com/kontiki/kontiki/internal/tracing"
	clusterv1 "github.com/kontiki/kontiki/proto/kontiki/cluster/v1"
)

const (
	// patience is how long a host may take to answer.
	patience = 3 * time.Second
	// mostBytes limits a worker's answer, and mostSteps the steps that are taken of any host's.
	mostBytes, mostSteps = 1 << 20, 256
)

// Config says whom a Gatherer asks.
type Config struct {
	Local *timeline.Recorder
	// Name is this master's, Own the address of its mTLS port, and Masters returns those of all masters; nil means that there are no others.
	Name, Own string
	Masters   func() []string
	// Connect returns a connection to a master's own services, which is not closed.
	Connect func(address string) (grpc.ClientConnInterface, error)
	// Agents reaches the workers; nil means that they are not asked.
	Agents *agents.Agents
}

// Gatherer gathers. It is safe for concurrent use.
type Gatherer struct{ Config }

// New returns a Gatherer.
func New(c Config) *Gatherer { return &Gatherer{c} }

// Of returns what is known of a pod's start. Hosts that do not answer are in it with the error.
func (g *Gatherer) Of(ctx context.Context, pod *corev1.Pod) *timeline.Document {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	uid := string(pod.UID)
	sources := []timeline.Source{{Role: timeline.Master, Host: g.Name, Log: g.Local.Of(uid)}}
	var others []string
	if g.Masters != nil {
		others = slices.DeleteFunc(slices.Clone(g.Masters()), func(address string) bool { return address == g.Own })
	}
	node := pod.Spec.NodeName
	asksWorker := node != "" && g.Agents != nil
	remote := make([]timeline.Source, len(others), len(others)+1)
	if asksWorker {
		remote = remote[:len(others)+1]
	}
	var group errgroup.Group
	for i, address := range others {
		group.Go(func() error {
			remote[i] = timeline.Source{Role: timeline.Master, Host: address}
			g.ask(&remote[i], func(s *timeline.Source) error { return g.master(ctx, address, uid, s) })
			return nil
		})
	}
	if asksWorker {
		group.Go(func() error {
			s := &remote[len(others)]
			*s = timeline.Source{Role: timeline.Worker, Host: node}
			onNode := cmp.Or(pod.Annotations[corev1.MirrorPodAnnotationKey], uid) // a static pod has another UID there
			g.ask(s, func(s *timeline.Source) error { return g.worker(ctx, node, onNode, s) })
			return nil
		})
	}
	_ = group.Wait() // the functions return no errors
	d := &timeline.Document{Namespace: pod.Namespace, Name: pod.Name, UID: uid, Node: node, Phase: string(pod.Status.Phase), Created: pod.CreationTimestamp.Time,
		Sources: append(sources, remote...)}
	for _, c := range pod.Status.Conditions {
		d.Ready = d.Ready || c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	}
	if trace, ok := tracing.Parse(pod.Annotations[tracing.Annotation]); ok {
		d.TraceID = trace.TraceID().String()
	}
	return d
}

// ask fills a source in. A panic, as of a strange answer, is an error of that source.
func (g *Gatherer) ask(s *timeline.Source, ask func(*timeline.Source) error) {
	if err := contain.Run(func() error { return ask(s) }); err != nil {
		s.Error = err.Error()
	}
	if more := len(s.Steps) - mostSteps; more > 0 {
		s.Steps, s.Dropped = s.Steps[:mostSteps], s.Dropped+more
	}
}

func (g *Gatherer) master(ctx context.Context, address, uid string, s *timeline.Source) error {
	conn, err := g.Connect(address)
	if err != nil {
		return err
	}
	r, err := clusterv1.NewTimelineServiceClient(conn).ReadTimeline(ctx, &clusterv1.ReadTimelineRequest{Uid: uid})
	switch {
	case status.Code(err) == codes.Unimplemented:
		return errors.New("it runs a version that keeps no timelines")
	case err != nil:
		return err
	}
	s.Host = cmp.Or(r.Master, address)
	s.Since, s.Dropped = time.Unix(0, r.Since), int(r.Dropped)
	for _, step := range r.Steps {
		s.Steps = append(s.Steps, timeline.Step{Name: step.Name, Container: step.Container, Began: time.Unix(0, step.Began), Ended: time.Unix(0, step.Ended), Detail: step.Detail, Error: step.Error})
	}
	return nil
}

func (g *Gatherer) worker(ctx context.Context, node, uid string, s *timeline.Source) error {
	base, err := g.Agents.URL(ctx, node)
	if err != nil {
		return err
	}
	transport, err := g.Agents.Transport(node)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, base.String()+"/kontiki/timeline/"+url.PathEscape(uid), nil)
	if err != nil {
		return err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("the worker answered %s", response.Status)
	}
	return json.NewDecoder(io.LimitReader(response.Body, mostBytes)).Decode(&s.Log)
}

// Register registers the service by which other masters ask this one.
func (g *Gatherer) Register(registrar grpc.ServiceRegistrar) {
	clusterv1.RegisterTimelineServiceServer(registrar, service{g: g})
}

type service struct {
	clusterv1.UnimplementedTimelineServiceServer
	g *Gatherer
}

// ReadTimeline implements TimelineService.
func (s service) ReadTimeline(_ context.Context, r *clusterv1.ReadTimelineRequest) (*clusterv1.ReadTimelineResponse, error) {
	l := s.g.Local.Of(r.Uid)
	response := &clusterv1.ReadTimelineResponse{Since: l.Since.UnixNano(), Dropped: uint32(l.Dropped), Master: s.g.Name}
	for _, step := range l.Steps {
		response.Steps = append(response.Steps, &clusterv1.TimelineStep{Name: step.Name, Container: step.Container, Began: step.Began.UnixNano(), Ended: step.Ended.UnixNano(), Detail: step.Detail, Error: step.Error})
	}
	return response, nil
}
