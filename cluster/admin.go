package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"

	"github.com/kontiki/kontiki/cluster/errclass"
	"github.com/kontiki/kontiki/cluster/identity"
	"github.com/kontiki/kontiki/cluster/mtls"
	"github.com/kontiki/kontiki/cluster/pki"
	clusterv1 "github.com/kontiki/kontiki/proto/kontiki/cluster/v1"
)

// Admin administers a running cluster from a master's host, over the mTLS port. It needs access to the master's data directory, but no
// API server.
type Admin struct {
	conn   *grpc.ClientConn
	client clusterv1.ClusterServiceClient
}

// DialAdmin connects to the master whose data is in dir.
func DialAdmin(dir string) (*Admin, error) {
	id, err := identity.Load(dir)
	if err != nil {
		return nil, err
	}
	m, err := loadMember(dir)
	if err != nil {
		return nil, err
	}
	if m == nil {
		return nil, fmt.Errorf("%s holds no master's data", dir)
	}
	live := identity.NewLive(id, 0)
	conn, err := mtls.Connect(&mtls.Dialer{Roots: live.Roots, Certificate: identity.NewCertificates(live, m.Name, nil).Get}, m.Address, mtls.ProtoCluster)
	if err != nil {
		return nil, err
	}
	return &Admin{conn: conn, client: clusterv1.NewClusterServiceClient(conn)}, nil
}

// Close closes the connection.
func (a *Admin) Close() error { return a.conn.Close() }

// Status calls Cluster.Status on that master.
func (a *Admin) Status(ctx context.Context) (*Status, error) {
	response, err := a.client.Status(ctx, &clusterv1.StatusRequest{})
	if err != nil {
		return nil, fmt.Errorf("cluster status: %w", errclass.FromStatus(err))
	}
	s := new(Status)
	if err := json.Unmarshal(response.Json, s); err != nil {
		return nil, fmt.Errorf("cluster status: %w", err)
	}
	return s, nil
}

// TransferLeadership calls Cluster.TransferLeadership.
func (a *Admin) TransferLeadership(ctx context.Context, to string) (string, error) {
	response, err := a.client.TransferLeadership(ctx, &clusterv1.TransferLeadershipRequest{To: to})
	return response.GetLeader(), errclass.FromStatus(err)
}

// RemoveMember calls Cluster.RemoveMember.
func (a *Admin) RemoveMember(ctx context.Context, name string) error {
	_, err := a.client.RemoveMember(ctx, &clusterv1.RemoveMemberRequest{Name: name})
	return errclass.FromStatus(err)
}

// CreateToken calls Cluster.CreateToken; ttl is cut to whole seconds.
func (a *Admin) CreateToken(ctx context.Context, role pki.Role, ttl time.Duration, description string) (string, error) {
	if ttl != 0 && ttl < time.Second {
		return "", errors.New("a join token's time to live is at least a second")
	}
	response, err := a.client.CreateToken(ctx, &clusterv1.CreateTokenRequest{Role: string(role), TtlSeconds: int64(ttl / time.Second), Description: description})
	return response.GetToken(), errclass.FromStatus(err)
}

// Tokens calls Cluster.Tokens.
func (a *Admin) Tokens(ctx context.Context) ([]Token, error) {
	response, err := a.client.ListTokens(ctx, &clusterv1.ListTokensRequest{})
	if err != nil {
		return nil, errclass.FromStatus(err)
	}
	tokens := make([]Token, len(response.Tokens))
	for i, t := range response.Tokens {
		tokens[i] = Token{ID: t.Id, Role: pki.Role(t.Role), Description: t.Description, CreatedAt: time.Unix(t.CreatedAt, 0).UTC()}
		if t.ExpiresAt != 0 {
			tokens[i].ExpiresAt = time.Unix(t.ExpiresAt, 0).UTC()
		}
	}
	return tokens, nil
}

// RevokeToken calls Cluster.RevokeToken.
func (a *Admin) RevokeToken(ctx context.Context, id string) error {
	_, err := a.client.RevokeToken(ctx, &clusterv1.RevokeTokenRequest{Id: id})
	return errclass.FromStatus(err)
}
