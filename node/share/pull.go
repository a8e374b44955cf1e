package share

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/kontiki/kontiki/node/runtime"
)

// find asks the image's tracker for a source.
func (p *Pull) find(ctx context.Context) {
	p.mu.Lock()
	failed := slices.Clone(p.failed)
	p.mu.Unlock()
	source := ""
	if len(failed) < maxAttempts {
		told, err := p.share.tell(ctx, p.image, report{State: stateBegins, Failed: failed})
		if err != nil {
			p.share.c.Log.Debug("an image's tracker does not respond", "image", p.image, "error", err)
		}
		if _, known := p.share.peer(told.Source); known && !slices.Contains(failed, told.Source) {
			source = told.Source
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.source = source
}

// giveUp does not use a source again. It returns false if that is known already.
func (p *Pull) giveUp(source string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.source != source {
		return false
	}
	p.source, p.failed = "", append(p.failed, source)
	return true
}

// Open implements runtime.PeerPull.
func (p *Pull) Open(ctx context.Context, blob digest.Digest, size int64) (io.ReadCloser, error) {
	for {
		p.mu.Lock()
		source := p.source
		p.mu.Unlock()
		peer, ok := p.share.peer(source)
		if !ok {
			return nil, fmt.Errorf("%w: no peer has the blob %s", runtime.ErrNotFound, blob)
		}
		body, err := p.request(ctx, peer, blob, size)
		if err == nil {
			return body, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		p.share.c.Log.Debug("a node does not send an image", "peer", source, "image", p.image, "error", err)
		if p.giveUp(source) {
			p.find(ctx)
		}
	}
}

// longest returns how long a peer may take for a blob of a size in bytes, however it says that it makes progress: a registry would be faster.
func longest(size int64) time.Duration {
	const leastRate = 256 << 10 // bytes a second
	return 10*time.Minute + time.Duration(min(size, 1<<40)/leastRate)*time.Second
}

// request gets a blob from a peer. It waits as long as the peer's own pull makes progress, and at most as long as longest says.
func (p *Pull) request(ctx context.Context, peer Peer, blob digest.Digest, size int64) (io.ReadCloser, error) {
	reached, since, end := int64(-1), time.Now(), time.Now().Add(longest(size))
	for {
		ctx, cancel := context.WithCancel(ctx)
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+peer.Address+"/kontiki/peers/blobs/"+blob.String()+"?image="+p.image.String(), nil)
		if err != nil {
			cancel()
			return nil, err
		}
		resp, err := p.share.client.Do(req)
		if err != nil {
			cancel()
			return nil, err
		}
		if resp.StatusCode == http.StatusOK && resp.ContentLength == size {
			return &verified{resp.Body, p, peer.Name, blob, blob.Algorithm().Digester(), cancel, time.AfterFunc(patience, cancel), time.AfterFunc(time.Until(end), cancel)}, nil
		}
		resp.Body.Close()
		cancel()
		switch {
		case resp.StatusCode == http.StatusOK:
			return nil, fmt.Errorf("the blob %s has %d bytes there instead of %d", blob, resp.ContentLength, size)
		case resp.StatusCode != http.StatusAccepted:
			return nil, errors.New(resp.Status)
		}
		now, err := strconv.ParseInt(resp.Header.Get(progressHeader), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", progressHeader, err)
		}
		switch {
		case time.Now().After(end):
			return nil, errors.New("it takes too long")
		case now != reached: // less than before if it has counted the blobs that it sends, while it had too many requests
			reached, since = now, time.Now()
		case time.Since(since) > patience:
			return nil, errors.New("it makes no progress either")
		}
	}
}

// verified is a blob that is verified while it is read: the end comes with an ErrBadPeer if the content has another digest.
type verified struct {
	io.ReadCloser
	pull     *Pull
	peer     string
	want     digest.Digest
	digester digest.Digester
	cancel   context.CancelFunc // ends the request
	// Both call cancel: idle when nothing was read for a while, whole when it takes too long.
	idle, whole *time.Timer
}

func (v *verified) Read(to []byte) (int, error) {
	v.idle.Reset(patience)
	n, err := v.ReadCloser.Read(to)
	v.digester.Hash().Write(to[:n])
	v.pull.share.received.WithLabelValues("peer").Add(float64(n))
	v.pull.received.Add(uint64(n))
	if errors.Is(err, io.EOF) && v.digester.Digest() != v.want {
		err = fmt.Errorf("%w: the node %s sent other content for %s", runtime.ErrBadPeer, v.peer, v.want)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		v.pull.giveUp(v.peer)
		v.pull.share.c.Log.Warn("a node did not send all of a blob of an image", "peer", v.peer, "image", v.pull.image, "blob", v.want, "error", err)
	}
	return n, err
}

// Close also tells those who wait for the blob that it may be complete now.
func (v *verified) Close() error {
	v.idle.Stop()
	v.whole.Stop()
	err := v.ReadCloser.Close()
	v.cancel()
	v.pull.changed.Tell()
	return err
}

// Registry implements runtime.PeerPull.
func (p *Pull) Registry(body io.ReadCloser) io.ReadCloser { return &fromRegistry{body, p} }

type fromRegistry struct {
	io.ReadCloser
	pull *Pull
}

func (r *fromRegistry) Read(to []byte) (int, error) {
	n, err := r.ReadCloser.Read(to)
	r.pull.share.received.WithLabelValues("registry").Add(float64(n))
	r.pull.received.Add(uint64(n))
	return n, err
}

func (r *fromRegistry) Close() error {
	err := r.ReadCloser.Close()
	r.pull.changed.Tell()
	return err
}

// End implements runtime.PeerPull.
func (p *Pull) End(ctx context.Context, complete bool) {
	s := p.share
	s.mu.Lock()
	delete(s.pulls[p.image], p)
	if len(s.pulls[p.image]) == 0 {
		delete(s.pulls, p.image)
	}
	s.mu.Unlock()
	p.changed.Tell()
	state := stateHas
	if !complete {
		state = stateDrops
	}
	if _, err := s.tell(ctx, p.image, report{State: state}); err != nil {
		s.c.Log.Debug("an image's tracker does not respond", "image", p.image, "error", err)
	}
}
