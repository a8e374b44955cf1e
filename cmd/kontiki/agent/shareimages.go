package agent

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"strconv"

	"github.com/opencontainers/go-digest"

	"github.com/kontiki/kontiki/cluster/worker"
	"github.com/kontiki/kontiki/node/share"
)

// newShare returns the worker's part in sharing images. It uses the agent and the runtime, which are made later.
func (w *workerParts) newShare(place Place, identity *worker.Identity, log *slog.Logger) *share.Share {
	return share.New(share.Config{
		Node: place.Name,
		Peers: func() []share.Peer {
			peers := w.agent.Peers()
			out := make([]share.Peer, len(peers))
			for i, p := range peers {
				out[i] = share.Peer{Name: p.Name, Address: net.JoinHostPort(p.IP.String(), strconv.Itoa(KubeletPort))}
			}
			return out
		},
		TLS: func() *tls.Config {
			return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: identity.Roots(), Certificates: []tls.Certificate{*identity.Client()}}
		},
		Open: func(ctx context.Context, blob digest.Digest) (io.ReadCloser, int64, error) {
			return w.runtime.OpenBlob(ctx, blob)
		},
		Images: func(ctx context.Context) ([]digest.Digest, error) { return w.runtime.PulledImages(ctx) },
		Log:    log.With("part", "images"),
	})
}
