package consensus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/internal/random"
)

// A restore brings objects back under their old UIDs, which nothing else ever does. Decisions that a controller made on the state
// before it must not be applied to the state after it: a namespace that was being emptied would be emptied again. So the leader's
// duties that act on objects are stopped, and waited for, before a restore is committed, and start again after it. A key in the
// state requests that from whichever master leads, and another key confirms it.
const (
	quiesceKey  = kv.OwnPrefix + "quiesce"
	quiescedKey = kv.OwnPrefix + "quiesced"
	// quiesceBound is how long duties may take to stop; quiesceHeld how long they stay stopped for a restore that is not committed.
	quiesceBound = 30 * time.Second
	quiesceHeld  = time.Minute
)

type quiesceMark struct {
	ID string `json:"id"`
}

// quiesceAsked returns the id of the restore that requests it, and the revision of the request; "" if there is none.
func quiesceAsked(v kv.View) (id string, revision uint64) {
	version, ok := v.Get(quiesceKey)
	if !ok {
		return "", 0
	}
	var mark quiesceMark
	if err := json.Unmarshal(version.Value, &mark); err != nil || mark.ID == "" {
		return "unreadable", version.ModRevision // it ends because of its age
	}
	return mark.ID, version.ModRevision
}

// AwaitState waits until a view fulfils a condition, which may depend only on keys with the prefix.
func (n *Replica) AwaitState(ctx context.Context, prefix string, holds func(kv.View) bool) error {
	for {
		view := n.store.View()
		if holds(view) {
			return nil
		}
		watcher, err := n.store.Watch(prefix, view.Revision())
		if err == nil {
			_, _, err = watcher.Next(ctx)
			watcher.Close()
		}
		if err != nil && !errors.Is(err, kv.ErrCompacted) {
			return err
		}
	}
}

// performOutside runs the duties of other packages for one term, except while a restore requests that none run.
func (n *Replica) performOutside(ctx context.Context) {
	for ctx.Err() == nil {
		if id, revision := quiesceAsked(n.store.View()); id != "" {
			n.holdStill(ctx, id, revision)
			continue
		}
		running, stop := context.WithCancel(ctx)
		var duties sync.WaitGroup
		n.duties.mu.Lock()
		n.duties.start = func(d *duty) { duties.Go(func() { n.perform(running, d) }) }
		for _, d := range n.duties.list {
			if !d.own {
				n.duties.start(d)
			}
		}
		n.duties.mu.Unlock()
		_ = n.AwaitState(ctx, quiesceKey, func(v kv.View) bool { id, _ := quiesceAsked(v); return id != "" }) // or until the term ends
		n.duties.mu.Lock()
		n.duties.start = nil
		n.duties.mu.Unlock()
		stop()
		duties.Wait()
	}
}

// holdStill confirms that no duty is running, and waits until the restore has been committed or has taken too long.
func (n *Replica) holdStill(ctx context.Context, id string, revision uint64) {
	n.log.Info("the leader's duties are stopped for a restore", "restore", id)
	bounded, cancel := context.WithTimeout(ctx, quiesceHeld)
	defer cancel()
	mark, err := json.Marshal(quiesceMark{id})
	if err == nil {
		_, err = n.Propose(bounded, &kv.Command{ID: random.CommandID(), Ops: []kv.Op{
			{Key: quiesceKey, Check: true, Cond: kv.AtRevision, Revision: revision}, {Key: quiescedKey, Value: mark}}})
	}
	if err == nil {
		err = n.AwaitState(bounded, quiesceKey, func(v kv.View) bool { now, _ := quiesceAsked(v); return now != id })
	}
	if err == nil || ctx.Err() != nil {
		return
	}
	n.log.Warn("the restore for which the leader's duties were stopped was not committed: they resume", "restore", id)
	_, err = n.Propose(ctx, &kv.Command{ID: random.CommandID(), Ops: []kv.Op{
		{Key: quiesceKey, Delete: true, Cond: kv.AtRevision, Revision: revision}, {Key: quiescedKey, Delete: true}}})
	if err != nil && ctx.Err() == nil {
		n.log.Warn("the key of a restore that was not committed could not be deleted yet", "error", err)
	}
}

// StopDuties stops the leader's duties for a restore, and returns operations to be added to its command: these make it fail if the
// duties have resumed meanwhile, and let them resume after it.
func (n *Replica) StopDuties(ctx context.Context, id string) ([]kv.Op, error) {
	mark, err := json.Marshal(quiesceMark{id})
	if err != nil {
		return nil, err
	}
	result, err := n.Propose(ctx, &kv.Command{ID: random.CommandID(), Ops: []kv.Op{{Key: quiesceKey, Value: mark, Cond: kv.Absent}, {Key: quiescedKey, Delete: true}}})
	if err != nil {
		return nil, err
	}
	if result.Failed != nil {
		return nil, errors.New("another restore is under way; wait until it is done")
	}
	bounded, cancel := context.WithTimeout(ctx, quiesceBound)
	defer cancel()
	err = n.AwaitState(bounded, quiescedKey, func(v kv.View) bool {
		version, ok := v.Get(quiescedKey)
		var answer quiesceMark
		return ok && json.Unmarshal(version.Value, &answer) == nil && answer.ID == id
	})
	if err != nil {
		n.ResumeDuties(id)
		return nil, fmt.Errorf("the leader's duties did not stop within %s: %w", quiesceBound, err)
	}
	return []kv.Op{{Key: quiesceKey, Delete: true, Cond: kv.AtRevision, Revision: result.Revisions[0]}, {Key: quiescedKey, Delete: true}}, nil
}

// ResumeDuties lets the leader's duties resume after a failed restore.
func (n *Replica) ResumeDuties(id string) {
	asked, revision := quiesceAsked(n.store.View())
	if asked != id {
		return
	}
	ctx, cancel := context.WithTimeout(n.life, n.timings.Propose)
	defer cancel()
	_, err := n.Propose(ctx, &kv.Command{ID: random.CommandID(), Ops: []kv.Op{
		{Key: quiesceKey, Delete: true, Cond: kv.AtRevision, Revision: revision}, {Key: quiescedKey, Delete: true}}})
	if err != nil {
		n.log.Warn("the leader's duties resume later: a failed restore could not be cleaned up yet", "error", err)
	}
}
