package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/kontiki/kontiki/cluster/errclass"
	"github.com/kontiki/kontiki/cluster/join"
	"github.com/kontiki/kontiki/cluster/mtls"
	clusterv1 "github.com/kontiki/kontiki/proto/kontiki/cluster/v1"
)

const (
	aliveBound    = time.Second
	catchUpPoll   = 50 * time.Millisecond
	forwardedMark = "kontiki-forwarded"
)

// onLeader calls here if this master leads, and otherwise there, with a client of the leader. A call that was forwarded already is not
// forwarded again. It waits for a leader, and retries if leadership moves, until the context ends.
func (c *Cluster) onLeader(ctx context.Context, here func(context.Context) error, there func(context.Context, clusterv1.ClusterServiceClient) error) error {
	ctx, cancel := c.consensus.Bounded(ctx)
	defer cancel()
	incoming, _ := metadata.FromIncomingContext(ctx)
	forwarded := len(incoming.Get(forwardedMark)) > 0
	for {
		lead := c.consensus.Leadership()
		err := errors.New("no leader is known")
		switch {
		case lead.Self:
			err = here(ctx)
		case forwarded:
			return errclass.ErrNotLeader
		case lead.Name != "":
			var conn mtls.Line
			if conn, err = c.consensus.Line(lead.Address); err == nil {
				err = there(metadata.AppendToOutgoingContext(ctx, forwardedMark, "1"), clusterv1.NewClusterServiceClient(conn))
			}
		}
		if err == nil {
			return nil
		}
		switch code := status.Code(err); {
		case errors.Is(err, errclass.ErrNotLeader), errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipLost),
			code == codes.Aborted, code == codes.Unavailable, lead.Name == "":
		default:
			return err
		}
		if !lead.Pause(ctx, 100*time.Millisecond) {
			return fmt.Errorf("%w (%w)", err, context.Cause(ctx))
		}
	}
}

// alive reports whether the master of that name responds at the address.
func (c *Cluster) alive(ctx context.Context, name, address string) bool {
	if name == c.cfg.Name {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, aliveBound)
	defer cancel()
	answer, err := c.consensus.Ask(ctx, address)
	return err == nil && answer.Name == name
}

// prepareMember prepares the cluster, on the leader, for a host that joins with an empty data directory. A dead member of its name is
// removed before the host starts, because an empty replica that still has that member's vote could lose acknowledged writes.
func (c *Cluster) prepareMember(ctx context.Context, name, address string) error {
	if err := c.memberChange.Take(ctx); err != nil {
		return err
	}
	defer c.memberChange.Leave()
	if err := join.CheckName(name); err != nil {
		return err
	}
	for _, s := range c.consensus.Servers() {
		sameName, sameAddress := string(s.ID) == name, string(s.Address) == address
		switch {
		case sameName && c.alive(ctx, name, string(s.Address)):
			return fmt.Errorf("the name %q is %w: the master at %s has it and is alive; choose another name, or remove that one with `kontiki cluster remove %s`",
				name, errclass.ErrNameTaken, s.Address, name)
		case sameName:
			c.log.Info("a new host takes the place of a dead master", "master", name, "old_address", s.Address, "address", address)
			if err := c.removeServer(ctx, s.ID); err != nil {
				return err
			}
		case sameAddress:
			return fmt.Errorf("the address %s is %w, by the master %q; give another advertise address, or remove that master with `kontiki cluster remove %s`",
				address, errclass.ErrNameTaken, s.ID, s.ID)
		}
	}
	return c.forgetRemoval(ctx, name)
}

// addMember adds, on the leader, a master that runs already: first without a vote, and with a vote once it has caught up.
func (c *Cluster) addMember(ctx context.Context, name, address string) error {
	if err := c.memberChange.Take(ctx); err != nil {
		return err
	}
	defer c.memberChange.Leave()
	if _, err := c.consensus.WaitReady(ctx); err != nil {
		return err
	}
	if err := c.checkRemoved(name); err != nil {
		return err
	}
	id, addr := raft.ServerID(name), raft.ServerAddress(address)
	var current *raft.Server
	for _, s := range c.consensus.Servers() {
		if s.ID == id {
			current = &s
		} else if s.Address == addr {
			return fmt.Errorf("the address %s is %w, by the master %q", address, errclass.ErrNameTaken, s.ID)
		}
	}
	if current != nil && current.Address != addr && c.alive(ctx, name, string(current.Address)) {
		return fmt.Errorf("the name %q is %w: the master at %s has it and is alive", name, errclass.ErrNameTaken, current.Address)
	}
	if current != nil && current.Suffrage == raft.Voter && current.Address == addr {
		return nil
	}
	if err := c.reachable(ctx, name, address); err != nil {
		return err
	}
	if current == nil || current.Suffrage != raft.Voter {
		c.log.Info("adding a master, without a vote until it has caught up", "master", name, "address", address)
		err := c.consensus.AddNonvoter(ctx, id, addr)
		if err != nil {
			return fmt.Errorf("add the master %s: %w", name, err)
		}
		if err := c.caughtUp(ctx, name, address); err != nil {
			return err
		}
	}
	err := c.consensus.AddVoter(ctx, id, addr)
	if err != nil {
		return fmt.Errorf("give the master %s its vote: %w", name, err)
	}
	c.log.Info("a master has joined", "master", name, "address", address)
	return nil
}

// reachable returns an error if the leader cannot call the new master, which then could never catch up, or if that master must not be added.
func (c *Cluster) reachable(ctx context.Context, name, address string) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	answer, err := c.consensus.Ask(ctx, address)
	if err != nil {
		return fmt.Errorf("the leader %s cannot reach %s at %s, check its advertise address and the firewall: %w", c.cfg.Name, name, address, err)
	}
	if answer.Name != name {
		return fmt.Errorf("the address %s is %w: the master %q answers there", address, errclass.ErrNameTaken, answer.Name)
	}
	if own := c.memberNow().Recoveries; answer.Recoveries != own {
		return fmt.Errorf("%w: %s knows of %d recoveries, there were %d", ErrStale, name, answer.Recoveries, own)
	}
	return c.admitLevel(name, answer.Version, max(int(answer.FeatureLevel), 1))
}

// caughtUp waits until a new master has applied everything that was committed when caughtUp was called.
func (c *Cluster) caughtUp(ctx context.Context, name, address string) error {
	applied, commit := c.store.AppliedIndex(), c.consensus.CommitIndex()
	for {
		lead := c.consensus.Leadership()
		call, cancel := context.WithTimeout(ctx, aliveBound)
		answer, err := c.consensus.Ask(call, address)
		cancel()
		if err == nil && answer.AppliedIndex >= applied && answer.CommitIndex >= commit {
			return nil
		}
		if !c.consensus.IsRaftLeader() {
			return errclass.ErrNotLeader
		}
		if !lead.Pause(ctx, catchUpPoll) {
			return fmt.Errorf("wait for the master %s to catch up: %w", name, context.Cause(ctx))
		}
	}
}

func (c *Cluster) removeServer(ctx context.Context, id raft.ServerID) error {
	err := c.consensus.RemoveServer(ctx, id)
	if err != nil {
		return fmt.Errorf("remove the master %s: %w", id, err)
	}
	return nil
}

// RemoveMember removes a master, dead or alive, from the cluster. A leader transfers leadership before it is removed.
// Errors: errclass.ErrNotMember, errclass.ErrRefused.
func (c *Cluster) RemoveMember(ctx context.Context, name string) error {
	tried := false // an attempt that seemed to fail may have removed it
	err := c.onLeader(ctx, func(ctx context.Context) error {
		if err := c.memberChange.Take(ctx); err != nil {
			return err
		}
		defer c.memberChange.Leave()
		servers := c.consensus.Servers()
		for _, s := range servers {
			if string(s.ID) != name {
				continue
			}
			if len(servers) == 1 {
				return fmt.Errorf("%w: the last master of a cluster cannot be removed", errclass.ErrRefused)
			}
			if name == c.cfg.Name {
				if err := c.consensus.Transfer(ctx, ""); err != nil {
					return fmt.Errorf("remove the leader %s: %w", name, err)
				}
				return errclass.ErrNotLeader // the new leader does it
			}
			c.log.Info("removing a master", "master", name)
			tried = true
			if err := c.noteRemoval(ctx, name); err != nil {
				return fmt.Errorf("remove the master %s: %w", name, err)
			}
			return c.removeServer(ctx, s.ID)
		}
		return fmt.Errorf("remove %q: %w", name, errclass.ErrNotMember)
	}, func(ctx context.Context, client clusterv1.ClusterServiceClient) error {
		_, err := client.RemoveMember(ctx, &clusterv1.RemoveMemberRequest{Name: name})
		if err = errclass.NotMember(err); err != nil && !errors.Is(err, errclass.ErrNotMember) {
			tried = true
		}
		return err
	})
	if tried && errors.Is(err, errclass.ErrNotMember) {
		return nil
	}
	return errclass.FromStatus(err)
}

// TransferLeadership transfers leadership to the named master, or to any other one if the name is empty, and returns the new leader's name.
// Errors: errclass.ErrNotMember; errclass.ErrRefused, also if no suitable master responds.
func (c *Cluster) TransferLeadership(ctx context.Context, to string) (string, error) {
	ctx, cancel := c.consensus.Bounded(ctx)
	defer cancel()
	if lead := c.consensus.Leadership(); to != "" && lead.Name == to {
		return to, nil
	}
	before := ""
	err := c.onLeader(ctx, func(ctx context.Context) error {
		before = c.cfg.Name
		return c.consensus.Transfer(ctx, to)
	}, func(ctx context.Context, client clusterv1.ClusterServiceClient) error {
		before = c.consensus.Leadership().Name
		_, err := client.TransferLeadership(ctx, &clusterv1.TransferLeadershipRequest{To: to})
		return errclass.NotMember(err)
	})
	if err != nil {
		return "", fmt.Errorf("transfer leadership: %w", errclass.FromStatus(err))
	}
	for {
		lead := c.consensus.Leadership()
		if lead.Name != "" && lead.Name != before {
			return lead.Name, nil
		}
		if !lead.Pause(ctx, catchUpPoll) {
			return "", fmt.Errorf("transfer leadership: %w", context.Cause(ctx))
		}
	}
}

// MasterAddresses returns the mTLS addresses of all masters, this one's first.
func (c *Cluster) MasterAddresses() []string {
	addresses := []string{c.address}
	for _, s := range c.consensus.Servers() {
		if s.ID != raft.ServerID(c.cfg.Name) {
			addresses = append(addresses, string(s.Address))
		}
	}
	return addresses
}
