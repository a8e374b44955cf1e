package containerd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"path"
	"strings"
	"sync"

	client "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kontiki/kontiki/node/runtime"
)

// peerPull is a pull that asks other nodes for content before the registry.
type peerPull struct {
	runtime.PeerPull
	sizes sync.Map // of blobs, by digest, as their descriptors say

	mu     sync.Mutex
	broken map[digest.Digest]bool // blobs of which a peer sent a part only, or something else
}

// forgetBroken removes what was received of blobs that peers did not send as they should. It says whether there was any: then the pull should
// begin again, since containerd would append the rest to what is wrong. Peers are not asked any more once there was any.
func (r *Runtime) forgetBroken(ctx context.Context, p *peerPull) bool {
	p.mu.Lock()
	broken := maps.Clone(p.broken)
	p.mu.Unlock()
	if len(broken) == 0 {
		return false
	}
	store := r.client.ContentStore()
	ingests, err := store.ListStatuses(r.ns(ctx))
	if err != nil {
		return false
	}
	for _, ingest := range ingests {
		_, hex, _ := strings.Cut(ingest.Ref, "sha256:")
		if broken[digest.NewDigestFromEncoded(digest.SHA256, hex)] {
			store.Abort(r.ns(ctx), ingest.Ref) // what cannot be removed makes the pull fail again
		}
	}
	return true
}

// fromPeer is a blob that a peer sends.
type fromPeer struct {
	io.ReadCloser
	pull *peerPull
	blob digest.Digest
}

func (f *fromPeer) Read(to []byte) (int, error) {
	n, err := f.ReadCloser.Read(to)
	if err == nil || errors.Is(err, io.EOF) {
		return n, err
	}
	f.pull.mu.Lock()
	if f.pull.broken == nil {
		f.pull.broken = map[digest.Digest]bool{}
	}
	f.pull.broken[f.blob] = true
	f.pull.mu.Unlock()
	if !errors.Is(err, runtime.ErrBadPeer) {
		err = io.ErrUnexpectedEOF // containerd's client fetches the rest from the next host, which is the registry
	}
	return n, err
}

// handler learns the sizes of blobs.
func (p *peerPull) handler(next images.Handler) images.Handler {
	return images.HandlerFunc(func(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		p.sizes.Store(desc.Digest, desc.Size)
		children, err := next.Handle(ctx, desc)
		for _, child := range children {
			p.sizes.Store(child.Digest, child.Size)
		}
		return children, err
	})
}

// before puts a "registry" in front of the others that has what the other nodes have. It resolves no names, so that each pod's credentials are
// checked by the registry.
func (p *peerPull) before(registries docker.RegistryHosts) docker.RegistryHosts {
	peers := docker.RegistryHost{Client: &http.Client{Transport: p}, Host: "peers.invalid", Scheme: "https", Path: "/v2", Capabilities: docker.HostCapabilityPull}
	return func(host string) ([]docker.RegistryHost, error) {
		hosts, err := registries(host)
		if err != nil {
			return nil, err
		}
		return append([]docker.RegistryHost{peers}, hosts...), nil
	}
}

// RoundTrip implements http.RoundTripper for requests to the peers.
func (p *peerPull) RoundTrip(r *http.Request) (*http.Response, error) {
	resp := &http.Response{Status: "404 Not Found", StatusCode: http.StatusNotFound, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, Body: http.NoBody, Request: r}
	blob, err := digest.Parse(path.Base(r.URL.Path))
	size, ok := p.sizes.Load(blob)
	p.mu.Lock()
	ok = ok && len(p.broken) == 0
	p.mu.Unlock()
	// The rest of a blob whose beginning is here already is fetched from the registry: a part has no digest that could be verified.
	if err != nil || !ok || r.Method != http.MethodGet || r.Header.Get("Range") != "" && !strings.HasPrefix(r.Header.Get("Range"), "bytes=0-") {
		return resp, nil
	}
	body, err := p.Open(r.Context(), blob, size.(int64))
	if errors.Is(err, runtime.ErrNotFound) {
		return resp, nil
	}
	if err != nil {
		return nil, err
	}
	resp.Status, resp.StatusCode, resp.ContentLength, resp.Body = "200 OK", http.StatusOK, size.(int64), &fromPeer{body, p, blob}
	return resp, nil
}

// around returns a transport to a registry whose responses are counted.
func (p *peerPull) around(next http.RoundTripper) http.RoundTripper { return countedTransport{p, next} }

type countedTransport struct {
	pull *peerPull
	next http.RoundTripper
}

func (t countedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := t.next.RoundTrip(r)
	if err == nil && t.pull.PeerPull != nil { // it is nil while the name is resolved
		resp.Body = t.pull.Registry(resp.Body)
	}
	return resp, err
}

// resolved is a resolver that has resolved its only name.
type resolved struct {
	remotes.Resolver
	name string
	desc ocispec.Descriptor
}

func (r resolved) Resolve(context.Context, string) (string, ocispec.Descriptor, error) {
	return r.name, r.desc, nil
}

// OpenBlob opens a complete blob of an image, and returns its size in bytes. It returns a runtime.ErrNotFound if there is none.
func (r *Runtime) OpenBlob(ctx context.Context, blob digest.Digest) (io.ReadCloser, int64, error) {
	reader, err := r.client.ContentStore().ReaderAt(r.ns(ctx), ocispec.Descriptor{Digest: blob})
	if err != nil {
		return nil, 0, fmt.Errorf("blob %s: %w", blob, classify(err))
	}
	return struct {
		io.Reader
		io.Closer
	}{content.NewReader(reader), reader}, reader.Size(), nil
}

// PulledImages returns the digests of the images that were pulled and not imported.
func (r *Runtime) PulledImages(ctx context.Context) ([]digest.Digest, error) {
	list, err := r.client.ListImages(r.ns(ctx))
	if err != nil {
		return nil, classify(err)
	}
	var out []digest.Digest
	for _, image := range list {
		if !imported(image) {
			out = append(out, image.Target().Digest)
		}
	}
	return out, nil
}

func imported(image client.Image) bool {
	_, ok := image.Labels()[importedLabel]
	return ok
}
