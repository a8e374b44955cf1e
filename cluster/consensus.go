package cluster

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kontiki/kontiki/cluster/identity"
	"github.com/kontiki/kontiki/cluster/mtls"
	"github.com/kontiki/kontiki/cluster/raftfix"
	"github.com/kontiki/kontiki/fsm"
)

// The part of a master that is consensus: what Propose, Consistent and leadership need, and nothing that listens, gossips or
// reads a file. Open puts the rest around it; a simulation runs it by itself, over a wire, lines and a disk of its own.

// newCluster makes a master of which nothing is open yet. Its disk is to be opened, then openRaft called.
func newCluster(cfg Config, store *fsm.Store, id *identity.Live, own *identity.Certificates, self *member, address string, connect func(address string) (mtls.Line, error)) *Cluster {
	c := &Cluster{
		cfg: cfg, log: cfg.Logger.With("master", cfg.Name), identity: id, certificates: own, address: address,
		store:    store,
		disk:     newDisk(),
		peers:    mtls.NewLines(connect),
		inflight: newInflight(),
		batches:  newBatches(),
		ready:    make(chan struct{}),
		opened:   time.Now(),

		reconfigured: make(chan struct{}, 1),
		memberChange: make(turn, 1), identityChange: make(turn, 1),
	}
	c.member.now.Store(self)
	c.life, c.end = context.WithCancel(context.Background())
	c.ownIndex = round[uint64]{run: c.verifyIndex, tasks: &c.tasks}
	c.leaderIndex = round[uint64]{run: c.askLeader, tasks: &c.tasks}
	return c
}

// openRaft starts raft from what is on the open disk.
func (c *Cluster) openRaft(w raftfix.Wire) error {
	bootstrap := c.memberNow().Bootstrap && !c.memberNow().Complete
	reconfigured := func() { poke(c.reconfigured); c.mastersChanged.Tell() }
	r, err := openReplica(c.disk.store, c.cfg.Name, c.address, bootstrap, c.cfg.Timings, c.store, w, reconfigured, c.log)
	if err != nil {
		return err
	}
	c.replica, c.leaders = r, newLeaders(r.raft, r.config.LocalID)
	return nil
}

// takePart proposes, reads, and leads when raft says so, until the context ends (proposals and reads until c.life does). The
// answer is closed when leadership and its duties have ended: that is not in the group, since a duty that does not stop must
// not keep the master from stopping.
func (c *Cluster) takePart(ctx context.Context, g *errgroup.Group) (leading <-chan struct{}) {
	g.Go(func() error { c.leaders.watch(c.life); return nil })
	for range batchSenders {
		g.Go(func() error { c.batches.run(c.life, c.sendBatch); return nil })
	}
	g.Go(func() error { return c.watchDisk(ctx) })
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.lead(ctx)
	}()
	return done
}
