package runtime

import (
	"context"
	"errors"
	"io"

	"github.com/opencontainers/go-digest"
)

// ErrBadPeer means that another node sent other content than it was asked for.
var ErrBadPeer = errors.New("runtime: a peer sent wrong content")

// Peers are the other nodes, which may have the content of images. Safe for concurrent use.
type Peers interface {
	// Begin begins the pull of an image whose digest a registry has just told. Call End of the result.
	Begin(ctx context.Context, image digest.Digest) PeerPull
}

// PeerPull is one pull of an image. Safe for concurrent use.
type PeerPull interface {
	// Open opens a blob of the image at another node. It returns an ErrNotFound if no other one has it; then the registry should be asked.
	// size is the blob's in bytes. A read returns an ErrBadPeer if the content is not that of the digest.
	Open(ctx context.Context, blob digest.Digest, size int64) (io.ReadCloser, error)
	// Registry returns a reader for a response of the registry, which counts what is read.
	Registry(body io.ReadCloser) io.ReadCloser
	// End ends the pull; complete says that this node has the image now.
	End(ctx context.Context, complete bool)
}
