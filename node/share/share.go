package share

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/kontiki/kontiki/internal/broadcast"
	"github.com/kontiki/kontiki/internal/pause"
	"github.com/kontiki/kontiki/node/runtime"
)

// Peer is another node.
type Peer struct {
	Name    string
	Address string // host:port of its HTTPS port
}

// Config has the parameters of a Share.
type Config struct {
	Node string // this node's name
	// Peers returns the other nodes that can be reached at present.
	Peers func() []Peer
	// TLS returns the configuration for connections to peers: this node's client certificate, and the cluster's CAs as RootCAs.
	TLS func() *tls.Config
	// Open opens a complete blob of this node, with its size in bytes. It returns a runtime.ErrNotFound if the node does not have it.
	Open func(ctx context.Context, blob digest.Digest) (io.ReadCloser, int64, error)
	// Images returns the digests of the images that this node has pulled.
	Images func(ctx context.Context) ([]digest.Digest, error)
	Log    *slog.Logger
}

// Share is a node's part in sharing images. It implements runtime.Peers. Safe for concurrent use.
type Share struct {
	c       Config
	tracker *tracker
	client  *http.Client
	uploads chan struct{} // one slot per blob that is sent or waited for

	mu        sync.Mutex
	uploadsOf map[string]chan struct{}             // the same by the node that asks
	pulls     map[digest.Digest]map[*Pull]struct{} // by image
	away      map[string]time.Time                 // until when a node that did not respond tracks nothing

	total    atomic.Uint64 // bytes sent
	received *prometheus.CounterVec
	sent     prometheus.Counter
}

const (
	// maxUploads limits how many blobs are sent to peers, or waited for by them, at a time.
	maxUploads = 64
	// maxUploadsOf limits how many of them are for one node, so that a slow one leaves slots to the others. A pull fetches three at a time.
	maxUploadsOf = 16
	// askTime limits how long a tracker may take to respond. It responds from memory.
	askTime = 5 * time.Second
	// awayTime is how long another tracker is used in place of one that did not respond.
	awayTime = time.Minute
	// notYet is how long a node waits for its own pull before it responds that it does not have a blob yet. patience is how long a peer
	// may make no progress before the registry is asked instead.
	notYet, patience = 10 * time.Second, 30 * time.Second
	// maxMessage limits the size of requests and responses about images, in bytes.
	maxMessage = 64 << 10
)

// New makes a Share.
func New(c Config) *Share {
	s := &Share{c: c, tracker: newTracker(), uploads: make(chan struct{}, maxUploads), uploadsOf: map[string]chan struct{}{}, pulls: map[digest.Digest]map[*Pull]struct{}{}, away: map[string]time.Time{}}
	transport := &http.Transport{
		DialTLSContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return (&tls.Dialer{Config: s.only(address)}).DialContext(ctx, network, address)
		},
		MaxIdleConns: 16, MaxIdleConnsPerHost: 4, IdleConnTimeout: time.Minute, TLSHandshakeTimeout: askTime, ResponseHeaderTimeout: notYet + askTime, DisableCompression: true,
	}
	s.client = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return errors.New("a peer may not redirect") }}
	s.received = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kontiki_image_received_bytes_total", Help: "Bytes of images that this node has received, by where they came from."}, []string{"from"})
	s.sent = prometheus.NewCounter(prometheus.CounterOpts{Name: "kontiki_image_sent_bytes_total", Help: "Bytes of images that this node has sent to other nodes."})
	for _, from := range []string{"peer", "registry"} {
		s.received.WithLabelValues(from)
	}
	return s
}

// only returns a configuration that accepts only the node that has an address: a node whose address was taken over by another one is not
// mistaken for it.
func (s *Share) only(address string) *tls.Config {
	c := s.c.TLS().Clone()
	c.VerifyConnection = func(state tls.ConnectionState) error {
		name := state.PeerCertificates[0].Subject.CommonName
		for _, p := range s.c.Peers() {
			if p.Address == address && name == "system:node:"+p.Name {
				return nil
			}
		}
		return fmt.Errorf("%s is not the address of %q", address, name)
	}
	return c
}

// Describe and Collect implement prometheus.Collector.
func (s *Share) Describe(ch chan<- *prometheus.Desc) { s.received.Describe(ch); s.sent.Describe(ch) }
func (s *Share) Collect(ch chan<- prometheus.Metric) { s.received.Collect(ch); s.sent.Collect(ch) }

// trackerOf returns the node that tracks an image; it is this one if the name is Config.Node.
func (s *Share) trackerOf(image digest.Digest) Peer {
	best, highest := Peer{Name: s.c.Node}, rank(s.c.Node, image)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.c.Peers() {
		if until, ok := s.away[p.Name]; ok && time.Now().Before(until) {
			continue
		}
		if r := rank(p.Name, image); bytes.Compare(r[:], highest[:]) > 0 {
			best, highest = p, r
		}
	}
	return best
}

func rank(node string, image digest.Digest) [sha256.Size]byte {
	return sha256.Sum256([]byte(node + "\x00" + image.String()))
}

func (s *Share) peer(name string) (Peer, bool) {
	for _, p := range s.c.Peers() {
		if p.Name == name {
			return p, true
		}
	}
	return Peer{}, false
}

// The states of a pull that a tracker is told of.
const (
	stateBegins = "begins"
	stateHas    = "has"
	stateDrops  = "drops"
)

// report is the body of POST /kontiki/peers/images/DIGEST.
type report struct {
	State string `json:"state"`
	// Failed are the nodes that have failed as sources of this pull.
	Failed []string `json:"failed,omitempty"`
}

// told is the response.
type told struct {
	Source string `json:"source,omitempty"`
}

// announcement is the body of POST /kontiki/peers/images.
type announcement struct {
	Images []digest.Digest `json:"images"`
}

// note handles a report about an image that this node tracks.
func (s *Share) note(image digest.Digest, node string, r report) told {
	switch r.State {
	case stateBegins:
		return told{s.tracker.begin(image.String(), node, r.Failed)}
	case stateHas:
		s.tracker.has(image.String(), node)
	case stateDrops:
		s.tracker.drop(image.String(), node)
	}
	return told{}
}

// tell reports to an image's tracker, or to the next one if that does not respond.
func (s *Share) tell(ctx context.Context, image digest.Digest, r report) (out told, err error) {
	for range 2 {
		to := s.trackerOf(image)
		if to.Name == s.c.Node {
			return s.note(image, s.c.Node, r), nil
		}
		if err = s.post(ctx, to, "/kontiki/peers/images/"+image.String(), r, &out); err == nil || ctx.Err() != nil {
			return out, err
		}
	}
	return out, err
}

func (s *Share) post(ctx context.Context, to Peer, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+to.Address+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := s.client.Do(req)
	if err != nil {
		s.mu.Lock()
		s.away[to.Name] = time.Now().Add(awayTime)
		s.mu.Unlock()
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxMessage))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s responds %s: %.200s", to.Name, resp.Status, data)
	}
	return json.Unmarshal(data, out)
}

// Run announces this node's images to their trackers until ctx ends, because trackers forget, fail and change with the nodes.
func (s *Share) Run(ctx context.Context) error {
	for wait := rand.N(announceEvery / 10); pause.For(ctx, wait); wait = announceEvery*9/10 + rand.N(announceEvery/10) {
		if err := s.announce(ctx); err != nil && ctx.Err() == nil {
			s.c.Log.Debug("images could not be announced to all peers", "error", err)
		}
	}
	return nil
}

// maxAnnounced limits how many images a node announces.
const maxAnnounced = 512

func (s *Share) announce(ctx context.Context) error {
	images, err := s.c.Images(ctx)
	if err != nil {
		return err
	}
	byTracker := map[Peer][]digest.Digest{}
	for _, image := range images[:min(len(images), maxAnnounced)] {
		tracker := s.trackerOf(image)
		byTracker[tracker] = append(byTracker[tracker], image)
	}
	var failed []error
	for to, images := range byTracker {
		if to.Name == s.c.Node {
			for _, image := range images {
				s.tracker.has(image.String(), s.c.Node)
			}
			continue
		}
		failed = append(failed, s.post(ctx, to, "/kontiki/peers/images", announcement{images}, &struct{}{}))
	}
	return errors.Join(failed...)
}

// Begin implements runtime.Peers.
func (s *Share) Begin(ctx context.Context, image digest.Digest) runtime.PeerPull {
	p := &Pull{share: s, image: image}
	s.mu.Lock()
	if s.pulls[image] == nil {
		s.pulls[image] = map[*Pull]struct{}{}
	}
	s.pulls[image][p] = struct{}{}
	s.mu.Unlock()
	p.find(ctx)
	return p
}

// pulling returns a pull of an image that goes on; nil if there is none.
func (s *Share) pulling(image digest.Digest) *Pull {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p := range s.pulls[image] {
		return p
	}
	return nil
}

// Pull is one pull of an image by this node. It implements runtime.PeerPull.
type Pull struct {
	share   *Share
	image   digest.Digest
	changed broadcast.Signal

	received atomic.Uint64 // bytes

	mu     sync.Mutex
	source string // "" for the registry
	failed []string
}
