package objects

import (
	"context"
	"log/slog"
	"time"

	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/internal/pause"
	"github.com/kontiki/kontiki/internal/random"
)

// Without writes, a cluster would stay at one revision forever. Clients do not expect that: a list that is continued after its
// continue token has expired must be of a later revision than the list that it continues, since upstream's API server writes a key
// whenever it compacts etcd. The leader writes such a key here, more often than tokens expire.
const (
	markKey   = "/kontiki/mark"
	markEvery = continueLife - time.Minute
)

// Mark lets the revision grow at least once in the lifetime of a continue token, until the context ends. It is a duty of the
// leader.
func (s *Service) Mark(ctx context.Context, log *slog.Logger) error {
	for pause.For(ctx, markEvery) {
		at := s.now().UTC().Format(time.RFC3339)
		_, err := s.store.Propose(ctx, &kv.Command{ID: random.CommandID(), Ops: []kv.Op{{Key: markKey, Value: []byte(at)}}})
		if err != nil && ctx.Err() == nil {
			log.Warn("the key that lets the revision grow could not be written", "error", err)
		}
	}
	return ctx.Err()
}
