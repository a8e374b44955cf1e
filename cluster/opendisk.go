package cluster

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kontiki/kontiki/cluster/consensus"
	"github.com/kontiki/kontiki/cluster/errclass"
	"github.com/kontiki/kontiki/cluster/join"
	"github.com/kontiki/kontiki/cluster/storage"
	"github.com/kontiki/kontiki/internal/failpoint"
	clusterv1 "github.com/kontiki/kontiki/proto/kontiki/cluster/v1"
)

// openDisk opens this master's disk. Damaged data are set aside and fetched again from the leader, once a leader has agreed. If no other
// master has them, nothing is changed, and the error says what to do.
func (c *Cluster) openDisk(ctx context.Context) error {
	dir := filepath.Join(c.cfg.DataDir, "raft")
	open := func(expect bool) error {
		return c.consensus.OpenDisk(dir, consensus.DiskOptions{Expect: expect, Reserve: c.cfg.DiskReserve, Low: c.cfg.DiskLow})
	}
	fresh := !consensus.HasState(dir)
	bootstrap := c.memberNow().Bootstrap && !c.memberNow().Complete
	err := open(c.memberNow().Complete)
	switch {
	case err == nil && fresh && !bootstrap:
		// It was never a member, unless it crashed while it joined and lost its disk then.
		return c.readmit(ctx, errors.New("the disk is empty"), 0)
	case !errors.Is(err, storage.ErrDamaged):
		return err
	case bootstrap:
		return fmt.Errorf("%w; this master has not yet started its cluster: remove %s and start it again", err, c.cfg.DataDir)
	}
	damage := err
	c.log.Error("this master's raft data are damaged: asking the leader to send them again", "error", damage)
	if err := c.readmit(ctx, damage, c.cfg.Timings.Readmit); err != nil {
		return err
	}
	failpoint.Hit("cluster.readmit.granted")
	// From here on this master is new to its cluster, also after a crash between these steps.
	err = c.changeMember(func(m *member) {
		m.Bootstrap, m.Complete, m.Join = false, false, join.MergeAddresses(m.Masters, m.Join, c.address)
	})
	if err != nil {
		return err
	}
	failpoint.Hit("cluster.readmit.forgotten")
	to, err := storage.SetAside(dir, time.Now())
	if err != nil {
		return err
	}
	failpoint.Hit("cluster.readmit.setAside")
	c.log.Warn("the damaged raft data are set aside, and fetched again from the leader", "set_aside", to, "damage", damage)
	return open(false)
}

// readmit asks the leader, through any master, to remove this master's vote, so that it can start with an empty disk: a voter that has lost
// entries that it acknowledged could help to elect a leader without them. It retries for at most bound, or until the context ends if bound
// is 0. Errors: errclass.ErrRemoved, errclass.ErrNameTaken.
func (c *Cluster) readmit(ctx context.Context, damage error, bound time.Duration) error {
	others := join.MergeAddresses(join.MergeAddresses(c.memberNow().Masters, c.memberNow().Join, c.address), c.cfg.Join, c.address)
	if len(others) == 0 {
		return c.lastCopy(damage, "no other master is known")
	}
	request := &clusterv1.ReadmitRequest{Name: c.cfg.Name, Address: c.address, Damage: damage.Error(), Recoveries: c.memberNow().Recoveries}
	patience := ctx
	if bound > 0 {
		var cancel context.CancelFunc
		patience, cancel = context.WithTimeout(ctx, bound)
		defer cancel()
	}
	for {
		var failures []string
		for _, address := range others {
			conn, err := c.consensus.Line(address)
			if err == nil {
				call, cancel := context.WithTimeout(patience, join.DialBound)
				var answer *clusterv1.ReadmitResponse
				answer, err = clusterv1.NewDiskServiceClient(conn).Readmit(call, request)
				cancel()
				if err == nil {
					return c.changeMember(func(m *member) { m.Masters = join.MergeAddresses(answer.Masters, others, c.address) })
				}
			}
			if status.Code(err) == codes.Unimplemented && bound == 0 {
				return nil // a master of an earlier version: a new member has no vote to lose
			}
			switch err = errclass.FromStatus(err); {
			case errors.Is(err, errclass.ErrRemoved):
				return fmt.Errorf("%w (%w): to join again, remove %s and start with a token", err, damage, c.cfg.DataDir)
			case errors.Is(err, errclass.ErrNameTaken):
				return err
			}
			failures = append(failures, fmt.Sprintf("%s: %v", address, err))
		}
		c.log.Warn("no leader has agreed yet to send this master its data again", "asked", strings.Join(failures, "; "))
		timer := time.NewTimer(join.Pause)
		select {
		case <-timer.C:
		case <-patience.Done():
			timer.Stop()
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return c.lastCopy(damage, "no leader has answered for "+bound.String()+" ("+strings.Join(failures, "; ")+")")
		}
	}
}

// lastCopy returns the error of a master that does not start because its damaged data may be the only copy.
func (c *Cluster) lastCopy(damage error, known string) error {
	return fmt.Errorf("%w. This master cannot start: its disk may hold the last copy of the cluster's state, and %s. Nothing was changed. "+
		"If other masters come back so that they elect a leader, start this one again, and it fetches everything from them. Otherwise copy %s to a safe place, "+
		"and either recover on the master with the best copy with `kontiki cluster recover`, or restore a snapshot with `kontiki snapshot restore FILE`",
		damage, known, c.cfg.DataDir)
}
