package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kontiki/kontiki/cluster/errclass"
	"github.com/kontiki/kontiki/cluster/identity"
	"github.com/kontiki/kontiki/cluster/join"
	"github.com/kontiki/kontiki/cluster/pki"
	"github.com/kontiki/kontiki/internal/pause"
	clusterv1 "github.com/kontiki/kontiki/proto/kontiki/cluster/v1"
)

// addBound limits one request to be added, which includes catching up with the leader.
const addBound = 2 * time.Minute

// joinMaster fetches the cluster's identity from a master, with a join token.
func joinMaster(ctx context.Context, cfg *Config, address string) (*identity.Identity, *member, error) {
	token, err := join.ParseToken(cfg.Token)
	if err != nil {
		return nil, nil, err
	}
	if err := token.RequireRole(pki.RoleMaster); err != nil {
		return nil, nil, err
	}
	response, err := join.Ask(ctx, cfg.Network, cfg.Logger, cfg.Join, token, func(ctx context.Context, client clusterv1.JoinServiceClient) (*clusterv1.JoinMasterResponse, error) {
		return client.JoinMaster(ctx, &clusterv1.JoinMasterRequest{
			Token: cfg.Token, Name: cfg.Name, Address: address, Version: cfg.Version, FeatureLevel: int32(cfg.FeatureLevel),
			FixedSettings: cfg.Settings.Fixed,
		})
	})
	if err != nil {
		return nil, nil, fmt.Errorf("join the cluster: %w", err)
	}
	id := new(identity.Identity)
	if err := id.UnmarshalJSON(response.Identity); err != nil {
		return nil, nil, fmt.Errorf("join the cluster: %w", err)
	}
	if !id.Accepts(token.Pin) {
		return nil, nil, fmt.Errorf("join the cluster: %w: the identity received has another CA", errclass.ErrToken)
	}
	m := &member{Name: cfg.Name, Address: address, Gossip: response.Gossip, Join: join.MergeAddresses(cfg.Join, response.Masters, address), Recoveries: response.Recoveries}
	return id, m, nil
}

// becomeMember asks the other masters to add this one, or to record its new address. It retries until they have.
func (c *Cluster) becomeMember(ctx context.Context) error {
	for {
		var failures []error
		for _, address := range c.knownMasters() {
			conn, err := c.consensus.Line(address)
			if err == nil {
				call, cancel := context.WithTimeout(ctx, addBound)
				_, err = clusterv1.NewClusterServiceClient(conn).AddMember(call, &clusterv1.AddMemberRequest{Name: c.cfg.Name, Address: c.address})
				cancel()
			}
			err = errclass.FromStatus(err)
			switch {
			case err == nil:
				return nil
			case errors.Is(err, errclass.ErrNameTaken), errors.Is(err, errclass.ErrRemoved), errors.Is(err, errclass.ErrFeatureLevel):
				return fmt.Errorf("join the cluster: %w", err)
			case ctx.Err() != nil:
				return ctx.Err()
			}
			failures = append(failures, fmt.Errorf("%s: %w", address, err))
		}
		c.log.Warn("could not become a member yet, trying again", "error", errors.Join(failures...))
		if !pause.For(ctx, join.Pause) {
			return ctx.Err()
		}
	}
}

// knownMasters returns the addresses of other masters from every source: raft, gossip, storage and configuration.
func (c *Cluster) knownMasters() []string {
	var configured []string
	for _, s := range c.consensus.Servers() {
		configured = append(configured, string(s.Address))
	}
	return join.MergeAddresses(c.memberNow().Join, configured, c.address)
}
