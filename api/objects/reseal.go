package objects

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kontiki/kontiki/api/objects/deleted"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/internal/pause"
	"github.com/kontiki/kontiki/internal/random"
	"github.com/kontiki/kontiki/internal/sealed"
)

const (
	// resealAtOnce is how many values are re-encrypted at the same time: enough to share commits, and too few to delay other writes.
	resealAtOnce = 4
	// resealAgain is the pause after values could not be re-encrypted.
	resealAgain = 2 * time.Second
)

// Reseal re-encrypts every value that is encrypted with another key than the present one, whenever the key changes and whenever such a
// value is written (by a restored backup, or by a master that was late), until the context ends. It is a duty of the leader. A value that
// is re-encrypted keeps its resourceVersion, and nobody who watches it is told: its content is the same. What remains to be done is read
// from the state alone, so another leader continues where this one ended.
func (s *Service) Reseal(ctx context.Context, log *slog.Logger) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, kind := range s.Kinds().Kinds() {
		if kind.Sealed {
			group.Go(func() error { return s.resealAll(ctx, kind.Resource, kind.NamespacePrefix(""), log) })
		}
	}
	group.Go(func() error { return s.resealAll(ctx, "deleted objects", deleted.Prefix, log) })
	return group.Wait()
}

// resealAll re-encrypts the values whose keys have a prefix. name names them in logs.
func (s *Service) resealAll(ctx context.Context, name, prefix string, log *slog.Logger) error {
	for ctx.Err() == nil {
		changed := s.sealer.Changed()
		view := s.store.View()
		err := s.resealView(ctx, name, prefix, view, log)
		if err == nil {
			err = s.awaitStale(ctx, prefix, view.Revision(), changed)
		}
		if err != nil && ctx.Err() == nil {
			log.Warn("not all values could be encrypted with the new key yet", "resource", name, "error", err)
			pause.For(ctx, resealAgain)
		}
	}
	return ctx.Err()
}

// awaitStale returns when the key has changed, or a stale value was written after a revision, or the history does not tell.
func (s *Service) awaitStale(ctx context.Context, prefix string, after uint64, changed <-chan struct{}) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		select {
		case <-changed:
			cancel()
		case <-ctx.Done():
		}
	}()
	defer func() { cancel(); <-stopped }()
	watcher, err := s.store.Watch(prefix, after)
	if err != nil {
		return nil // the view has become too old: read a new one
	}
	defer watcher.Close()
	for {
		events, _, err := watcher.Next(ctx)
		if err != nil {
			return nil
		}
		for _, e := range events {
			if e.Type == kv.Put && s.staleValue(prefix, e.Current.Value) {
				return nil
			}
		}
	}
}

// resealView re-encrypts the stale values of a view. A value that has changed since then is left alone: its writer encrypted it. The
// error is that of the last value that failed; the others are re-encrypted all the same.
func (s *Service) resealView(ctx context.Context, name, prefix string, view kv.View, log *slog.Logger) error {
	var stale []*kv.Version
	view.Range(prefix, kv.PrefixEnd(prefix), func(v *kv.Version) bool {
		if s.staleValue(prefix, v.Value) {
			stale = append(stale, v)
		}
		return true
	})
	if len(stale) == 0 {
		return nil
	}
	begin := time.Now()
	results := make([]error, len(stale))
	var group errgroup.Group
	group.SetLimit(resealAtOnce)
	for i, v := range stale {
		if ctx.Err() != nil {
			break
		}
		group.Go(func() error {
			results[i] = s.resealOne(ctx, v)
			return nil
		})
	}
	group.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	failed := 0
	var last error
	for _, err := range results {
		if err != nil {
			failed++
			last = err
		}
	}
	if last != nil {
		return fmt.Errorf("%d of %d: %w", failed, len(stale), last)
	}
	log.Info("values were encrypted with the new key", "resource", name, "count", len(stale), "took", time.Since(begin).Round(time.Millisecond))
	return nil
}

// staleValue says whether a value is to be re-encrypted. A value that is not encrypted at all is to be, but not if it is a copy of a
// deleted object of a kind that need not be.
func (s *Service) staleValue(prefix string, value []byte) bool {
	if _, ok := sealed.Key(value); !ok && prefix == deleted.Prefix {
		return false
	}
	return s.sealer.Stale(value)
}

func (s *Service) resealOne(ctx context.Context, v *kv.Version) error {
	plain, err := s.sealer.Open(v.Key, v.Value)
	if err != nil {
		return fmt.Errorf("open %s: %w", v.Key, err)
	}
	value, err := s.sealer.Seal(v.Key, plain)
	if err != nil {
		return fmt.Errorf("seal %s: %w", v.Key, err)
	}
	ops := guarded([]kv.Op{{Key: v.Key, Value: value, Rewrite: true, Cond: kv.AtRevision, Revision: v.ModRevision}}, value)
	result, err := s.store.Propose(ctx, &kv.Command{ID: random.CommandID(), Ops: ops})
	switch {
	case err != nil:
		return fmt.Errorf("rewrite %s: %w", v.Key, err)
	case result.Failed != nil && result.Failed.Index > 0:
		return fmt.Errorf("rewrite %s: %w", v.Key, errResealedLate)
	}
	return nil
}

// errResealedLate means that the key with which a value was to be re-encrypted is itself retired.
var errResealedLate = errors.New("the key was replaced meanwhile")
