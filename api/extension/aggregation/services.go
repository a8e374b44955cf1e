// Package aggregation serves group versions by extension API servers: an APIService that names a service has every request for its group and
// version passed on to a pod of that service, which any master reaches through the agents of the nodes.
//
// The masters authenticate, authorize, record and limit a request as any other. They tell the extension API server who its user is in the
// headers X-Remote-User, X-Remote-Uid, X-Remote-Group and X-Remote-Extra-, which it believes since they present the front proxy's certificate
// (https://kubernetes.io/docs/tasks/extend-kubernetes/configure-aggregation-layer/). What it answers is bounded where the masters read it
// themselves, for discovery; redirections are refused (CVE-2022-3172).
package aggregation

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/helper"

	"github.com/kontiki/kontiki/api/extension/webhook"
	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/internal/broadcast"
	"github.com/kontiki/kontiki/internal/contain"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/internal/upgrade"
)

// Prefix is that of the keys of APIServices.
const Prefix = "/" + apiregistrationv1.GroupName + "/apiservices/"

// concurrent is how many services have their discovery read at a time.
const concurrent = 16

// refresh is how often discovery is read again, as upstream does.
const refresh = time.Minute

// Config has what Services are made of.
type Config struct {
	Store kv.Reader
	// Decode returns the object of a version, which is shared and read-only.
	Decode func(kind *registry.Kind, v *kv.Version) (registry.Object, error)
	// Kind is that of APIServices.
	Kind *registry.Kind
	Pods webhook.Pods
	// Certificate returns the front proxy's certificate.
	Certificate func() (*tls.Certificate, error)
	Log         *slog.Logger
}

// Services follows the APIServices in a store. It is safe for concurrent use.
type Services struct {
	c       Config
	mu      sync.Mutex // of changes of the state
	now     atomic.Pointer[State]
	kick    chan struct{}
	metrics *metrics
	// changed is told after each change of the state.
	changed broadcast.Signal
}

// State are the group versions that extension API servers serve, at one time. It is immutable.
type State struct {
	by map[schema.GroupVersion]*Service
	// Services are sorted: groups by their priority, which is the highest of their versions', then versions by theirs.
	Services []*Service
}

// Service is a group version that an extension API server serves. What is found is replaced, the rest is immutable.
type Service struct {
	Group, Version string
	Spec           *apiregistrationv1.APIServiceSpec
	// Available is the condition of that name; reason is the condition's.
	Available bool
	reason    string
	// Resources are what discovery has found last, nil if it has not yet; Fresh says that the last attempt did.
	Resources []apidiscoveryv2.APIResourceDiscovery
	Fresh     bool
	// OpenAPI is the hash of the document of version 3, "" if there is none.
	OpenAPI string
	// v2 is the service's part of a document of OpenAPI v2, nil if there is none.
	v2 *openAPIv2

	// pending says that no discovery has been tried since the APIService last changed.
	pending  bool
	revision uint64
	t        *target
}

// target is where requests go: what does not change with a service's status.
type target struct {
	host      string
	transport *http.Transport
	err       error
}

// New returns Services that have not followed the store yet.
func New(c Config) *Services {
	s := &Services{c: c, kick: make(chan struct{}, 1), metrics: newMetrics()}
	s.now.Store(&State{})
	return s
}

// Now returns the present state. A nil receiver has none.
func (s *Services) Now() *State {
	if s == nil {
		return &none
	}
	return s.now.Load()
}

var none State

// Of returns the service of a group version, nil if the masters serve it.
func (n *State) Of(group, version string) *Service {
	if len(n.by) == 0 {
		return nil
	}
	return n.by[schema.GroupVersion{Group: group, Version: version}]
}

// Unreachable says to clients of transactions and of the gRPC API why they do not reach the service's resources, and what to do.
func (s *Service) Unreachable() string {
	return fmt.Sprintf("%s/%s is served by an extension API server (APIService %s), which transactions and gRPC do not reach: use the Kubernetes API over HTTP", s.Group, s.Version, s.Name())
}

// Run follows the store until the context ends, and returns the context's error.
func (s *Services) Run(ctx context.Context) error {
	done := make(chan struct{})
	defer func() { <-done }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		defer close(done)
		s.discoverAll(ctx)
	}()
	for {
		view := s.c.Store.View()
		watcher, err := s.c.Store.Watch(Prefix, view.Revision())
		if err != nil {
			return err
		}
		s.sync(view)
		err = s.follow(ctx, watcher)
		watcher.Close()
		if !errors.Is(err, kv.ErrCompacted) {
			return err
		}
	}
}

func (s *Services) follow(ctx context.Context, watcher kv.Watcher) error {
	for {
		events, _, err := watcher.Next(ctx)
		if err != nil {
			return err
		}
		if len(events) > 0 {
			s.sync(s.c.Store.View())
		}
	}
}

// sync makes the state that of a view.
func (s *Services) sync(view kv.View) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.now.Load()
	var services []*Service
	known := map[*Service]bool{}
	for _, one := range before.Services {
		known[one] = true
	}
	changed := false
	view.Range(Prefix, kv.PrefixEnd(Prefix), func(v *kv.Version) bool {
		service, err := s.read(v, before)
		if err != nil {
			s.c.Log.Error("an APIService cannot be served", "key", v.Key, "error", err, "stack", contain.Stack(err))
			return true
		}
		if service != nil {
			services = append(services, service)
			changed = changed || !known[service]
		}
		return true
	})
	if !changed && len(services) == len(before.Services) {
		return
	}
	s.store(services)
	s.kicked()
	used := map[*target]bool{}
	for _, now := range services {
		used[now.t] = true
	}
	for _, old := range before.Services {
		if !used[old.t] {
			old.t.transport.CloseIdleConnections()
		}
	}
}

// kicked wakes discoverAll.
func (s *Services) kicked() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// store makes services the present ones. The caller holds mu.
func (s *Services) store(services []*Service) {
	priority := map[string]int32{}
	next := &State{by: map[schema.GroupVersion]*Service{}, Services: services}
	for _, one := range services {
		next.by[schema.GroupVersion{Group: one.Group, Version: one.Version}] = one
		priority[one.Group] = max(priority[one.Group], one.Spec.GroupPriorityMinimum)
	}
	slices.SortFunc(services, func(a, b *Service) int {
		return cmp.Or(cmp.Compare(priority[b.Group], priority[a.Group]), cmp.Compare(a.Group, b.Group),
			cmp.Compare(b.Spec.VersionPriority, a.Spec.VersionPriority), version.CompareKubeAwareVersionStrings(b.Version, a.Version))
	})
	s.metrics.compare(s.now.Swap(next), next)
	s.changed.Tell()
}

// read returns the service of a stored APIService, nil if the masters serve it. It is that of before if nothing has changed.
func (s *Services) read(v *kv.Version, before *State) (service *Service, err error) {
	defer contain.Recover(&err)
	obj, err := s.c.Decode(s.c.Kind, v)
	if err != nil {
		return nil, err
	}
	a := obj.(*apiregistrationv1.APIService)
	if a.Spec.Service == nil || a.Spec.Group == "" || a.DeletionTimestamp != nil {
		return nil, nil // the core group is the masters'
	}
	old := before.Of(a.Spec.Group, a.Spec.Version)
	if old != nil && old.revision == v.ModRevision {
		return old, nil
	}
	service = &Service{Group: a.Spec.Group, Version: a.Spec.Version, Spec: &a.Spec, pending: true, revision: v.ModRevision}
	if condition := helper.GetAPIServiceConditionByType(a, apiregistrationv1.Available); condition != nil {
		service.Available, service.reason = condition.Status == apiregistrationv1.ConditionTrue, condition.Reason
	}
	if old != nil && sameTarget(old.Spec, service.Spec) {
		service.t, service.Resources, service.Fresh, service.OpenAPI, service.v2 = old.t, old.Resources, old.Fresh, old.OpenAPI, old.v2
		return service, nil
	}
	service.t = s.target(&a.Spec)
	return service, nil
}

func sameTarget(a, b *apiregistrationv1.APIServiceSpec) bool {
	return a.Service.Namespace == b.Service.Namespace && a.Service.Name == b.Service.Name && portOf(a) == portOf(b) &&
		a.InsecureSkipTLSVerify == b.InsecureSkipTLSVerify && slices.Equal(a.CABundle, b.CABundle)
}

func portOf(spec *apiregistrationv1.APIServiceSpec) int32 {
	if spec.Service.Port != nil {
		return *spec.Service.Port
	}
	return 443
}

// target returns where the requests of an APIService go.
func (s *Services) target(spec *apiregistrationv1.APIServiceSpec) *target {
	at := &webhook.Service{Namespace: spec.Service.Namespace, Name: spec.Service.Name, Port: portOf(spec)}
	t := &target{host: at.Name + "." + at.Namespace + ".svc"}
	config := &tls.Config{
		MinVersion: tls.VersionTLS12, ServerName: t.host, InsecureSkipVerify: spec.InsecureSkipTLSVerify,
		NextProtos:           []string{"h2", "http/1.1"},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return s.c.Certificate() },
	}
	if len(spec.CABundle) > 0 {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(spec.CABundle) {
			t.err = errors.New("caBundle: no certificate can be read")
		}
	}
	t.transport = &http.Transport{
		DialContext:     func(ctx context.Context, _, _ string) (net.Conn, error) { return webhook.Dial(ctx, s.c.Pods, at) },
		TLSClientConfig: config, TLSHandshakeTimeout: 10 * time.Second, IdleConnTimeout: 90 * time.Second, MaxIdleConnsPerHost: 25, ForceAttemptHTTP2: true,
		MaxResponseHeaderBytes: upgrade.MaxHeader, HTTP2: &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second},
	}
	return t
}

// discoverAll reads the discovery of a service when it has changed, and that of all now and then, until the context ends. One that does not answer
// delays no other.
func (s *Services) discoverAll(ctx context.Context) {
	ticker := time.NewTicker(refresh)
	defer ticker.Stop()
	var running sync.Map // of group versions
	var group errgroup.Group
	defer group.Wait()
	slots := make(chan struct{}, concurrent)
	for all := false; ; {
		for _, service := range s.Now().Services {
			gv := schema.GroupVersion{Group: service.Group, Version: service.Version}
			if !service.Available || !all && !service.pending {
				continue
			}
			if _, known := running.LoadOrStore(gv, true); known {
				continue
			}
			group.Go(func() error {
				defer s.kicked() // it may have changed meanwhile
				defer running.Delete(gv)
				select {
				case slots <- struct{}{}:
				case <-ctx.Done():
					return nil
				}
				defer func() { <-slots }()
				s.discover(ctx, gv)
				return nil
			})
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			all = true
		case <-s.kick:
			all = false
		}
	}
}

// discover reads the discovery of the present service of a group version.
func (s *Services) discover(ctx context.Context, gv schema.GroupVersion) {
	service := s.Now().Of(gv.Group, gv.Version)
	if service == nil || !service.Available {
		return
	}
	var f *found
	err := contain.Run(func() (err error) {
		f, err = service.discover(ctx)
		return err
	})
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		s.c.Log.Warn("the discovery of an API service cannot be read", "service", service.Version+"."+service.Group, "error", err)
	}
	s.found(service, f, err)
}

// found takes over what discovery found, unless the service has changed meanwhile.
func (s *Services) found(service *Service, found *found, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now.Load()
	if now.Of(service.Group, service.Version) != service {
		return
	}
	next := *service
	next.pending = false
	if next.Fresh = err == nil; next.Fresh {
		next.Resources, next.OpenAPI, next.v2 = found.resources, found.openAPI, found.v2
	}
	if !service.pending && next.Fresh == service.Fresh && (err != nil || found.same(service)) {
		return
	}
	if next.v2 != service.v2 && next.v2 != nil && next.v2.err != nil {
		s.c.Log.Warn("an API service's document of OpenAPI v2 cannot be used", "service", service.Name(), "error", next.v2.err)
	}
	services := slices.Clone(now.Services)
	services[slices.Index(services, service)] = &next
	s.store(services)
}

// errTooMuch says which bound an answer exceeds.
var errTooMuch = fmt.Errorf("it is larger than %d bytes", maxAnswer)
