package cluster

import (
	"context"
	"fmt"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kontiki/kontiki/cluster/errclass"
	"github.com/kontiki/kontiki/cluster/mtls"
	clusterv1 "github.com/kontiki/kontiki/proto/kontiki/cluster/v1"
)

// diskService handles other masters' requests about their disks.
type diskService struct {
	clusterv1.UnimplementedDiskServiceServer
	c *Cluster
}

func (s diskService) Readmit(ctx context.Context, r *clusterv1.ReadmitRequest) (*clusterv1.ReadmitResponse, error) {
	if caller, ok := mtls.PeerFromContext(ctx); !ok || (caller.Name != r.Name && !isForwarder(s.c, caller)) {
		return nil, status.Errorf(codes.PermissionDenied, "a master asks for itself, not for %q", r.Name)
	}
	err := s.c.onLeader(ctx, func(ctx context.Context) error {
		return s.c.takeVote(ctx, r)
	}, func(ctx context.Context, _ clusterv1.ClusterServiceClient) error {
		conn, err := s.c.consensus.Line(s.c.consensus.Leadership().Address)
		if err == nil {
			_, err = clusterv1.NewDiskServiceClient(conn).Readmit(ctx, r)
		}
		return err
	})
	return &clusterv1.ReadmitResponse{Masters: s.c.MasterAddresses()}, errclass.ToStatus(err)
}

// takeVote removes, on the leader, the vote of a master that has lost its data. A master that is no member has no vote; it may join again,
// unless a user removed it.
func (c *Cluster) takeVote(ctx context.Context, r *clusterv1.ReadmitRequest) error {
	if err := c.memberChange.Take(ctx); err != nil {
		return err
	}
	defer c.memberChange.Leave()
	if _, err := c.consensus.WaitReady(ctx); err != nil {
		return err
	}
	if err := c.checkRemoved(r.Name); err != nil {
		return err
	}
	if own := c.memberNow().Recoveries; r.Recoveries != own {
		return fmt.Errorf("%w: %s knows of %d recoveries, there were %d", ErrStale, r.Name, r.Recoveries, own)
	}
	for _, s := range c.consensus.Servers() {
		if string(s.ID) != r.Name {
			continue
		}
		if c.alive(ctx, r.Name, string(s.Address)) {
			return fmt.Errorf("the name %q is %w: the master at %s has it and is alive", r.Name, errclass.ErrNameTaken, s.Address)
		}
		if s.Suffrage != raft.Voter {
			return nil
		}
		c.log.Warn("a master has lost its data: it has no vote until they are sent to it again", "master", r.Name, "damage", r.Damage)
		err := c.consensus.DemoteVoter(ctx, s.ID)
		if err != nil {
			return fmt.Errorf("take the vote of the master %s: %w", r.Name, err)
		}
		return nil
	}
	return nil
}

func (s diskService) Report(ctx context.Context, r *clusterv1.ReportRequest) (*clusterv1.ReportResponse, error) {
	return s.c.consensus.ServeReport(ctx, r)
}
