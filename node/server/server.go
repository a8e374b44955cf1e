// Package server is the node's HTTPS port. It serves the kubelet's API (logs, exec, attach, port-forward, pods, stats, metrics), and
// imports images. Callers are masters and administrators with certificates of the cluster, and owners of the API's tokens who have rights
// to the node's subresources (access.go).
package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	promcollectors "github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"

	"github.com/kontiki/kontiki/internal/linger"
	"github.com/kontiki/kontiki/internal/logline"
	"github.com/kontiki/kontiki/internal/newcomers"
	"github.com/kontiki/kontiki/internal/timeline"
	"github.com/kontiki/kontiki/node/podspec"
	"github.com/kontiki/kontiki/node/runtime"
	"github.com/kontiki/kontiki/node/stats"
	"github.com/kontiki/kontiki/node/volume"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

// Pods returns the pods that run here, with their present status.
type Pods interface {
	Pods() []*corev1.Pod
	// Pod returns the pod with that UID or, if it is empty, the newest pod of that name.
	Pod(namespace, name string, uid types.UID) (*corev1.Pod, bool)
}

// Config has the parameters of a Server.
type Config struct {
	Pods    Pods
	Runtime runtime.Runtime
	// Node returns the Node object, for stats.
	Node func() *corev1.Node
	// TLS returns the configuration for the next handshake: the server's certificate, and the cluster's CAs as ClientCAs.
	TLS func() *tls.Config
	// Verify decides whether the owner of a verified certificate may call; usually AllowMasters.
	Verify func(*x509.Certificate) error
	// Authorize asks a master about the owner of a token; nil means that only certificates are accepted.
	Authorize func(context.Context, *nodev1.AuthorizeCallerRequest) (*nodev1.AuthorizeCallerResponse, error)
	// Timeline has the steps of pods' starts; may be nil.
	Timeline *timeline.Recorder
	// Peers serves the requests of other workers, whose names caller returns; may be nil. It needs Authorize.
	Peers func(caller func(*http.Request) string) http.Handler
	// Configuration returns what /configz shows; may be nil.
	Configuration func() *kubeletv1beta1.KubeletConfiguration
	// Stats measures what containers use; nil means that the server measures by itself.
	Stats *stats.Sampler
	// Dir is a directory of the filesystem that pods use, for stats.
	Dir string
	// Volumes returns how full the volumes of a pod are, as far as it is known; may be nil.
	Volumes func(ctx context.Context, uid string) []volume.Usage
	// Probes has the metrics of probes; may be nil.
	Probes prometheus.Collector
	// Metrics are served in addition to the server's own; may be nil.
	Metrics prometheus.Gatherer
}

// Server serves the port.
type Server struct {
	c        Config
	handler  http.Handler
	tokens   *tokens      // nil if no tokens are accepted
	peers    http.Handler // nil if other workers may not call
	stats    *stats.Sampler
	imports  chan struct{} // one slot per import
	hostLogs string
	// Smaller in tests.
	maxImport  int64
	importIdle time.Duration
}

// New makes a server.
func New(c Config) *Server {
	s := &Server{c: c, hostLogs: hostLogs, stats: c.Stats, imports: make(chan struct{}, maxImports), maxImport: maxImport, importIdle: importIdle}
	if s.stats == nil {
		s.stats = stats.New(c.Runtime, c.Pods)
	}
	if c.Authorize != nil {
		s.tokens = newTokens(c.Authorize)
	}
	if c.Peers != nil {
		s.peers = c.Peers(callerOf)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /pods", s.pods)
	mux.HandleFunc("GET /runningpods/{$}", s.runningPods)
	mux.HandleFunc("GET /configz", s.configz)
	mux.HandleFunc("GET /logs/", s.hostLog)
	mux.HandleFunc("POST /checkpoint/", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "checkpoints of containers are not supported", http.StatusNotFound) // a kubelet whose runtime has none says so
	})
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", s.logs)
	for _, method := range []string{"GET", "POST"} {
		mux.HandleFunc(method+" /exec/{namespace}/{pod}/{container}", s.exec)
		mux.HandleFunc(method+" /exec/{namespace}/{pod}/{uid}/{container}", s.exec)
		mux.HandleFunc(method+" /attach/{namespace}/{pod}/{container}", s.attach)
		mux.HandleFunc(method+" /attach/{namespace}/{pod}/{uid}/{container}", s.attach)
		mux.HandleFunc(method+" /portForward/{namespace}/{pod}", s.portForward)
		mux.HandleFunc(method+" /portForward/{namespace}/{pod}/{uid}", s.portForward)
	}
	mux.HandleFunc("GET /stats/summary", s.summary)
	mux.HandleFunc("GET /kontiki/timeline/{uid}", func(w http.ResponseWriter, r *http.Request) { writeJSON(w, c.Timeline.Of(r.PathValue("uid"))) })
	mux.HandleFunc("GET /kontiki/images", s.listImages)
	mux.HandleFunc("POST /kontiki/images", s.importImage)
	mux.HandleFunc("DELETE /kontiki/images", s.removeImage)
	mux.HandleFunc("POST /kontiki/images/pull", s.pullImage)
	mux.HandleFunc("GET /kontiki/images/archive", s.exportImage)
	own := prometheus.NewRegistry()
	own.MustRegister(newCollector(s), &volumeCollector{s}, promcollectors.NewProcessCollector(promcollectors.ProcessCollectorOpts{}), promcollectors.NewGoCollector())
	gatherers := prometheus.Gatherers{own}
	if c.Metrics != nil {
		gatherers = append(gatherers, c.Metrics)
	}
	mux.Handle("GET /metrics", promhttp.HandlerFor(gatherers, promhttp.HandlerOpts{}))
	for path, collector := range map[string]prometheus.Collector{"resource": &resourceCollector{s}, "cadvisor": &cadvisorCollector{s}, "probes": c.Probes} {
		registry := prometheus.NewRegistry()
		if collector != nil {
			registry.MustRegister(collector)
		}
		mux.Handle("GET /metrics/"+path, promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	}
	s.handler = s.authorized(s.tunnel(mux))
	return s
}

// Handler returns the HTTP handler; requests must have a TLS state.
func (s *Server) Handler() http.Handler { return s.handler }

// The share of the process's file descriptors, in sixteenths, that connections to this port may take: those without a verified request
// yet, and all.
const (
	strangersShare   = 1
	connectionsShare = 2
)

// Serve serves until ctx ends, and closes l. Open streams are closed then.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	c := &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		c := s.c.TLS().Clone()
		c.ClientAuth = tls.VerifyClientCertIfGiven // others need a token
		c.MinVersion = tls.VersionTLS12
		c.SessionTicketsDisabled = true     // a session ticket would let a client resume after its CA was dropped
		c.NextProtos = []string{"http/1.1"} // SPDY and WebSocket hijack the connection
		return c, nil
	}}
	srv := &http.Server{Handler: s.handler, ReadHeaderTimeout: 30 * time.Second, ErrorLog: log.New(quiet{}, "", 0),
		BaseContext: func(net.Listener) context.Context { return ctx }, ConnContext: newcomers.ConnContext}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	noise := logline.NewLimited(slog.Default())
	limited := newcomers.Limit(linger.Listener(l, linger.Patience), newcomers.Share(strangersShare, connectionsShare), func(remote net.Addr) {
		noise.Warn("closed a connection to the node's port: too many are open, or have not authenticated", "remote", remote.String())
	})
	err := srv.Serve(tls.NewListener(limited, c))
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// quiet logs the HTTP server's own errors (mostly of clients without a certificate) at debug level.
type quiet struct{}

func (quiet) Write(b []byte) (int, error) {
	slog.Debug("node server", "msg", strings.TrimSpace(string(b)))
	return len(b), nil
}

func (s *Server) healthz(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
	defer cancel()
	if _, err := s.c.Runtime.Version(ctx); err != nil {
		http.Error(w, "container runtime is down: "+err.Error(), http.StatusInternalServerError)
		return
	}
	fmt.Fprint(w, "ok")
}

func (s *Server) pods(w http.ResponseWriter, r *http.Request) {
	l := corev1.PodList{}
	l.APIVersion, l.Kind = "v1", "PodList"
	for _, p := range s.c.Pods.Pods() {
		l.Items = append(l.Items, *p)
	}
	writeJSON(w, l)
}

// runningPods answers with the pods that have running containers, according to the runtime.
func (s *Server) runningPods(w http.ResponseWriter, r *http.Request) {
	list, err := s.c.Runtime.ListContainers(r.Context(), "")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	l := corev1.PodList{}
	l.APIVersion, l.Kind = "v1", "PodList"
	at := map[string]int{}
	for _, c := range list {
		if c.State != runtime.StateRunning {
			continue
		}
		i, ok := at[c.PodUID]
		if !ok {
			i = len(l.Items)
			at[c.PodUID] = i
			l.Items = append(l.Items, corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: c.PodNamespace, Name: c.PodName, UID: types.UID(c.PodUID)}})
		}
		l.Items[i].Spec.Containers = append(l.Items[i].Spec.Containers, corev1.Container{Name: c.Name, Image: c.Image})
	}
	writeJSON(w, l)
}

func (s *Server) configz(w http.ResponseWriter, _ *http.Request) {
	if s.c.Configuration == nil {
		http.Error(w, "this node has no configuration to show", http.StatusNotFound)
		return
	}
	writeJSON(w, map[string]any{"kubeletconfig": s.c.Configuration()})
}

func writeJSON(w http.ResponseWriter, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b)
}

// find returns the pod and container in a request's path, or writes the error.
func (s *Server) find(w http.ResponseWriter, r *http.Request) (*corev1.Pod, *corev1.Container) {
	namespace, name, container := r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("container")
	pod, ok := s.c.Pods.Pod(namespace, name, types.UID(r.PathValue("uid")))
	if !ok {
		http.Error(w, fmt.Sprintf("pod %q does not exist", name), http.StatusNotFound)
		return nil, nil
	}
	if container == "" {
		return pod, nil
	}
	if c, _ := podspec.Container(pod, container); c != nil {
		return pod, c
	}
	http.Error(w, fmt.Sprintf("container %q not found in pod %q", container, name), http.StatusNotFound)
	return nil, nil
}
