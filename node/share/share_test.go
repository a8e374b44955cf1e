package share

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/kontiki/kontiki/node/runtime"
)

// cluster is some nodes with a registry.
type cluster struct {
	t     *testing.T
	pool  *x509.CertPool
	ca    *x509.Certificate
	key   *ecdsa.PrivateKey
	image digest.Digest
	blobs map[digest.Digest][]byte
	order []digest.Digest
	asked sync.Map // how often the registry was asked for a blob, by digest: *atomic.Int64
	nodes []*node
}

type node struct {
	c      *cluster
	peer   Peer
	share  *Share
	server *httptest.Server

	mu    sync.Mutex
	blobs map[digest.Digest][]byte
}

func newCluster(t *testing.T, nodes int) *cluster {
	t.Helper()
	c := &cluster{t: t, blobs: map[digest.Digest][]byte{}}
	for i := range 4 {
		content := bytes.Repeat([]byte{byte('a' + i)}, 100_000*(i+1))
		d := digest.FromBytes(content)
		c.blobs[d], c.order = content, append(c.order, d)
	}
	c.image = c.order[0]
	var err error
	if c.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, c.key.Public(), c.key)
	if err != nil {
		t.Fatal(err)
	}
	if c.ca, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	c.pool = x509.NewCertPool()
	c.pool.AddCert(c.ca)
	for i := range nodes {
		c.nodes = append(c.nodes, c.node(fmt.Sprint("n", i)))
	}
	return c
}

func (c *cluster) certificate(name string) tls.Certificate {
	c.t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "system:node:" + name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, c.ca, c.key.Public(), c.key)
	if err != nil {
		c.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: c.key}
}

func (c *cluster) node(name string) *node {
	n := &node{c: c, blobs: map[digest.Digest][]byte{}}
	cert := c.certificate(name)
	n.share = New(Config{
		Node: name,
		Peers: func() (peers []Peer) {
			for _, other := range c.nodes {
				if other != n {
					peers = append(peers, other.peer)
				}
			}
			return peers
		},
		TLS: func() *tls.Config {
			return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: c.pool, Certificates: []tls.Certificate{cert}}
		},
		Open: func(_ context.Context, d digest.Digest) (io.ReadCloser, int64, error) {
			n.mu.Lock()
			defer n.mu.Unlock()
			content, ok := n.blobs[d]
			if !ok {
				return nil, 0, runtime.ErrNotFound
			}
			return io.NopCloser(bytes.NewReader(content)), int64(len(content)), nil
		},
		Images: func(context.Context) ([]digest.Digest, error) { return []digest.Digest{c.image}, nil },
		Log:    slog.New(slog.DiscardHandler),
	})
	n.server = httptest.NewUnstartedServer(n.share.Handler(func(r *http.Request) string {
		return strings.TrimPrefix(r.TLS.PeerCertificates[0].Subject.CommonName, "system:node:")
	}))
	n.server.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: c.pool}
	n.server.StartTLS()
	c.t.Cleanup(n.server.Close)
	c.t.Cleanup(n.share.client.CloseIdleConnections)
	n.peer = Peer{Name: name, Address: n.server.Listener.Addr().String()}
	return n
}

func (c *cluster) requests() (out []int64) {
	for _, d := range c.order {
		count, _ := c.asked.LoadOrStore(d, new(atomic.Int64))
		out = append(out, count.(*atomic.Int64).Load())
	}
	return out
}

// registry is a response of the registry. began, if it is not nil, is called before the first byte is read.
func (c *cluster) registry(d digest.Digest) io.ReadCloser {
	count, _ := c.asked.LoadOrStore(d, new(atomic.Int64))
	count.(*atomic.Int64).Add(1)
	return io.NopCloser(bytes.NewReader(c.blobs[d]))
}

// pull does what containerd's client does. hold is called before each blob.
func (n *node) pull(ctx context.Context, hold func(blob int)) (err error) {
	p := n.share.Begin(ctx, n.c.image)
	defer func() { p.End(ctx, err == nil) }()
	for i, d := range n.c.order {
		if hold != nil {
			hold(i)
		}
		want := n.c.blobs[d]
		body, err := p.Open(ctx, d, int64(len(want)))
		if errors.Is(err, runtime.ErrNotFound) {
			body, err = p.Registry(n.c.registry(d)), nil
		}
		if err != nil {
			return err
		}
		got, err := io.ReadAll(body)
		if err != nil && !errors.Is(err, runtime.ErrBadPeer) {
			err = fmt.Errorf("%s: blob %d: %w", n.peer.Name, i, err)
		}
		if err == nil && !bytes.Equal(got, want) {
			err = fmt.Errorf("%s: blob %d is wrong", n.peer.Name, i)
		}
		if err == nil {
			n.mu.Lock()
			n.blobs[d] = got
			n.mu.Unlock()
		}
		body.Close() // after it is committed
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *cluster) pullAll(nodes []*node) {
	c.t.Helper()
	var wg sync.WaitGroup
	for _, n := range nodes {
		wg.Go(func() {
			if err := n.pull(c.t.Context(), nil); err != nil {
				c.t.Error(err)
			}
		})
	}
	wg.Wait()
}

// Nodes that pull an image at the same time cost the registry one image.
func TestManyNodesCostTheRegistryOneImage(t *testing.T) {
	c := newCluster(t, 12)
	// The first has begun before the others do, and holds its pull back until all have.
	begun := make(chan struct{})
	var once sync.Once
	var wg sync.WaitGroup
	others := make(chan struct{})
	wg.Go(func() {
		err := c.nodes[0].pull(t.Context(), func(int) { once.Do(func() { close(begun) }); <-others })
		if err != nil {
			t.Error(err)
		}
	})
	<-begun
	for _, n := range c.nodes[1:] {
		wg.Go(func() {
			if err := n.pull(t.Context(), nil); err != nil {
				t.Error(err)
			}
		})
	}
	close(others)
	wg.Wait()
	for i, count := range c.requests() {
		if count != 1 {
			t.Errorf("the registry was asked for blob %d %d times", i, count)
		}
	}
	total := 0.0
	for _, n := range c.nodes {
		total += testutil.ToFloat64(n.share.received.WithLabelValues("peer"))
	}
	if want := 11 * 1_000_000.0; total != want {
		t.Errorf("peers sent %.0f bytes, want %.0f", total, want)
	}
	// A later one is served too, and so it is after the tracker has forgotten, by the announcements.
	late := c.node("late")
	c.nodes = append(c.nodes, late)
	for _, n := range c.nodes {
		n.share.tracker.images = map[string]*trackedImage{}
	}
	if err := c.nodes[3].share.announce(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.pullAll([]*node{late})
	if counts := c.requests(); counts[0] != 1 {
		t.Errorf("the registry was asked again: %v", counts)
	}
}

// A node whose peers fail in every way gets the image from the registry.
func TestBadPeers(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"another size": func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "something") },
		"an error":     func(w http.ResponseWriter, r *http.Request) { http.Error(w, "no", http.StatusInternalServerError) },
		"a redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://127.0.0.1:1/", http.StatusFound)
		},
		"no progress":    func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusAccepted) },
		"no blob":        http.NotFound,
		"no end of JSON": func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, strings.Repeat("[", 100000)) },
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, 3)
			for _, n := range c.nodes {
				n.share.tracker.has(c.image.String(), "n1")
			}
			inner := c.nodes[1].server.Config.Handler
			c.nodes[1].server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodGet {
					answer(w, r)
					return
				}
				inner.ServeHTTP(w, r)
			})
			c.pullAll(c.nodes[:1])
			for i, count := range c.requests() {
				if count != 1 {
					t.Errorf("the registry was asked for blob %d %d times", i, count)
				}
			}
		})
	}
	t.Run("other content", func(t *testing.T) {
		c := newCluster(t, 3)
		for _, n := range c.nodes {
			n.share.tracker.has(c.image.String(), "n1")
		}
		for d, content := range c.blobs {
			c.nodes[1].blobs[d] = bytes.Repeat([]byte("x"), len(content))
		}
		if err := c.nodes[0].pull(t.Context(), nil); !errors.Is(err, runtime.ErrBadPeer) {
			t.Fatalf("wrong content gives %v", err)
		}
	})
	t.Run("away", func(t *testing.T) {
		c := newCluster(t, 3)
		for _, n := range c.nodes {
			n.share.tracker.has(c.image.String(), "n1")
		}
		c.nodes[1].server.Close()
		c.nodes[2].server.Close()
		c.pullAll(c.nodes[:1])
		if counts := c.requests(); counts[0] != 1 {
			t.Errorf("the registry was asked %v times", counts)
		}
	})
	t.Run("another node at the address", func(t *testing.T) {
		c := newCluster(t, 2)
		c.nodes[0].share.tracker.has(c.image.String(), "n1")
		c.nodes[1].share.tracker.has(c.image.String(), "n1")
		for d, content := range c.blobs {
			c.nodes[1].blobs[d] = content
		}
		c.nodes[1].peer.Name = "n9"
		c.nodes[0].share.tracker.has(c.image.String(), "n9")
		c.pullAll(c.nodes[:1])
		if counts := c.requests(); counts[0] != 1 {
			t.Errorf("the registry was asked %v times: content came from a node of another name", counts)
		}
	})
}

func TestRequestsAreChecked(t *testing.T) {
	c := newCluster(t, 2)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: c.pool, Certificates: []tls.Certificate{c.certificate("n0")}}}}
	defer client.CloseIdleConnections()
	for path, body := range map[string]string{
		"images/sha256:12":         `{"state":"has"}`,
		"images/" + anImage:        `{"state":"owns"}`,
		"images/" + anImage + "?1": `{"state":"begins","failed":["a","b","c","d"]}`,
		"images/" + anImage + "?2": strings.Repeat(" ", 2*maxMessage) + `{"state":"has"}`,
		"images":                   `{"images":["../../etc/passwd"]}`,
		"images?1":                 `{"images":["` + strings.Repeat(anImage+`","`, maxAnnounced) + anImage + `"]}`,
	} {
		resp, err := client.Post("https://"+c.nodes[1].peer.Address+"/kontiki/peers/"+path, "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%s %.80s: %s", path, body, resp.Status)
		}
	}
	if n := len(c.nodes[1].share.tracker.images); n != 0 {
		t.Errorf("bad requests changed the tracker: %d images", n)
	}
	for path, code := range map[string]int{
		"blobs/" + anImage:                               http.StatusBadRequest, // no image
		"blobs/passwd?image=" + anImage:                  http.StatusBadRequest,
		"blobs/" + anImage + "?image=" + anImage:         http.StatusNotFound,
		"blobs/..%2f..%2fetc%2fpasswd?image=" + anImage:  http.StatusBadRequest,
		"blobs/" + anImage + "/../../x?image=" + anImage: http.StatusNotFound,
	} {
		resp, err := client.Get("https://" + c.nodes[1].peer.Address + "/kontiki/peers/" + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != code {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
}
