package containerd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/kontiki/kontiki/node/runtime"
	"github.com/kontiki/kontiki/node/runtime/runtimetest"
)

// testPeers has the content of another runtime, perhaps damaged.
type testPeers struct {
	from     *Runtime // nil for none
	damage   func(blob digest.Digest, content []byte) (io.Reader, error)
	begun    digest.Digest
	ended    bool
	complete bool
	sent     atomic.Int64 // blobs
	registry atomic.Int64 // bytes that the registry sent
}

func (p *testPeers) Begin(_ context.Context, image digest.Digest) runtime.PeerPull {
	p.begun = image
	return p
}

func (p *testPeers) Open(ctx context.Context, blob digest.Digest, size int64) (io.ReadCloser, error) {
	if p.from == nil {
		return nil, runtime.ErrNotFound
	}
	body, has, err := p.from.OpenBlob(ctx, blob)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	content, err := io.ReadAll(body)
	if err != nil || has != size || int64(len(content)) != size {
		return nil, fmt.Errorf("the blob has %d bytes, of which %d were read, instead of %d: %w", has, len(content), size, err)
	}
	p.sent.Add(1)
	if p.damage == nil {
		return io.NopCloser(bytes.NewReader(content)), nil
	}
	damaged, err := p.damage(blob, content)
	return io.NopCloser(damaged), err
}

func (p *testPeers) Registry(body io.ReadCloser) io.ReadCloser {
	return struct {
		io.Reader
		io.Closer
	}{io.TeeReader(body, writer(func(b []byte) { p.registry.Add(int64(len(b))) })), body}
}

type writer func([]byte)

func (w writer) Write(b []byte) (int, error) { w(b); return len(b), nil }

func (p *testPeers) End(_ context.Context, complete bool) { p.ended, p.complete = true, complete }

// TestPullsFromPeers: what another node has is not fetched from the registry, which is asked what the name stands for all the same.
func TestPullsFromPeers(t *testing.T) {
	registry := startRegistry(t)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	pushed := digest.Digest(registry.push(t, "team/app", "1"))
	ref, auth := registry.address+"/team/app:1", runtime.Auth{Username: registryUser, Password: registryPassword}
	node := func() *Runtime {
		r, _ := open(t, runtimetest.StartDaemon(t), nil)
		r.c.RegistryConfigDir = registry.hosts(t)
		return r
	}
	first, second := node(), node()
	pull := func(r *Runtime, p *testPeers, auth runtime.Auth) error {
		r.c.Peers = p
		img, err := r.PullImage(ctx, ref, auth)
		if err == nil && img.User != "1" {
			t.Errorf("the image is %+v", img)
		}
		if err == nil && (p.begun != pushed || !p.ended || !p.complete) {
			t.Errorf("the peers were told %+v", p)
		}
		return err
	}
	alone := &testPeers{}
	if err := pull(first, alone, auth); err != nil || alone.registry.Load() == 0 {
		t.Fatalf("without peers the registry sent %d bytes: %v", alone.registry.Load(), err)
	}
	if images, err := first.PulledImages(ctx); err != nil || len(images) != 1 || images[0] != pushed {
		t.Errorf("the pulled images are %v, %v", images, err)
	}
	// Who may not pull the image does not get it from peers either.
	if err := pull(second, &testPeers{from: first}, runtime.Auth{Username: registryUser, Password: "wrong"}); err == nil {
		t.Error("a wrong password was accepted")
	}
	half := func(_ digest.Digest, content []byte) (io.Reader, error) {
		return io.MultiReader(bytes.NewReader(content[:len(content)/2]), iotest.ErrReader(errors.New("the node is gone"))), nil
	}
	wrong := func(_ digest.Digest, content []byte) (io.Reader, error) {
		return io.MultiReader(bytes.NewReader(bytes.Repeat([]byte("x"), len(content))), iotest.ErrReader(runtime.ErrBadPeer)), nil
	}
	wrongHalf := func(_ digest.Digest, content []byte) (io.Reader, error) {
		return io.MultiReader(bytes.NewReader(bytes.Repeat([]byte("x"), len(content)/2)), iotest.ErrReader(errors.New("the node is gone"))), nil
	}
	for name, damage := range map[string]func(digest.Digest, []byte) (io.Reader, error){"half": half, "other content": wrong, "half of other content": wrongHalf} {
		t.Run(name, func(t *testing.T) {
			p := &testPeers{from: first, damage: damage}
			if err := pull(second, p, auth); err != nil {
				t.Fatal(err)
			}
			if p.sent.Load() == 0 || p.registry.Load() == 0 {
				t.Errorf("peers sent %d blobs, the registry %d bytes", p.sent.Load(), p.registry.Load())
			}
			if err := second.RemoveImage(ctx, ref); err != nil {
				t.Fatal(err)
			}
		})
	}
	all := &testPeers{from: first}
	if err := pull(second, all, auth); err != nil {
		t.Fatal(err)
	}
	if all.sent.Load() != 3 || all.registry.Load() != 0 {
		t.Errorf("peers sent %d blobs, the registry %d bytes", all.sent.Load(), all.registry.Load())
	}
	if _, _, err := second.OpenBlob(ctx, digest.FromString("nothing")); !errors.Is(err, runtime.ErrNotFound) {
		t.Errorf("a blob that does not exist: %v", err)
	}
}
