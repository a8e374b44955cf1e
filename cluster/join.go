package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"github.com/kontiki/kontiki/cluster/identity"

	"github.com/kontiki/kontiki/cluster/mtls"

	"google.golang.org/grpc"

	"github.com/kontiki/kontiki/cluster/pki"
	clusterv1 "github.com/kontiki/kontiki/proto/kontiki/cluster/v1"
)

const (
	joinDial  = 5 * time.Second
	joinPause = time.Second
	// addBound bounds one request to be added, which includes catching up.
	addBound = 2 * time.Minute
)

// dialPinned connects to a master's join service. The server must show a certificate under the CA that the token pins
// before anything is sent.
func dialPinned(ctx context.Context, network mtls.Network, address string, token parsedToken) (*grpc.ClientConn, error) {
	ctx, cancel := context.WithTimeout(ctx, joinDial)
	defer cancel()
	raw, err := network.Dial(ctx, address)
	if err != nil {
		return nil, fmt.Errorf("reach %s: %w", address, err)
	}
	config := &tls.Config{
		MinVersion:         tls.VersionTLS13,
		NextProtos:         []string{mtls.ProtoJoin},
		InsecureSkipVerify: true, // VerifyConnection does it, by the pin
		VerifyConnection:   func(state tls.ConnectionState) error { return verifyPinned(state, token.pin) },
	}
	conn := tls.Client(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		if errors.Is(err, ErrToken) {
			return nil, fmt.Errorf("join by %s: %w", address, err)
		}
		return nil, fmt.Errorf("join by %s: this is not the port of a Kontiki master (%d, by default): %w", address, DefaultPort, err)
	}
	var used atomic.Bool
	client, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(mtls.Secured{}),
		grpc.WithDisableServiceConfig(),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			if used.Swap(true) {
				return nil, errors.New("the connection was lost")
			}
			return conn, nil
		}))
	if err != nil {
		conn.NetConn().Close()
		return nil, err
	}
	return client, nil
}

// verifyPinned finds the CA with the pin in what the server sent, and checks the server's certificate against it.
func verifyPinned(state tls.ConnectionState, pin string) error {
	seen := ""
	for _, cert := range state.PeerCertificates {
		if !cert.IsCA {
			continue
		}
		if seen = pki.Pin(cert); seen == pin {
			pool := x509.NewCertPool()
			pool.AddCert(cert)
			return mtls.VerifyMaster(state, pool)
		}
	}
	if seen == "" {
		return errors.New("the server shows no CA")
	}
	return fmt.Errorf("%w: the server belongs to another cluster (its CA is %s..., the token is for %s...); check the address, or make a token on that cluster with `kontiki token create`",
		ErrToken, shortPin(seen), shortPin(pin))
}

// join asks masters in turn, until one lets this host in or says no for good.
func join[T any](ctx context.Context, network mtls.Network, log *slog.Logger, addresses []string, token parsedToken, ask func(context.Context, clusterv1.JoinServiceClient) (T, error)) (T, error) {
	var zero T
	if len(addresses) == 0 {
		return zero, errors.New("no master's address to join by is given")
	}
	for {
		var failures []error
		for _, address := range addresses {
			answer, err := joinOne(ctx, network, address, token, ask)
			switch {
			case err == nil:
				return answer, nil
			case errors.Is(err, ErrToken), errors.Is(err, ErrNameTaken), errors.Is(err, ErrFeatureLevel), errors.Is(err, ErrRefused):
				return zero, err
			case ctx.Err() != nil:
				return zero, errors.Join(append(failures, err)...)
			}
			log.Warn("could not join, trying again", "master", address, "error", err)
			failures = append(failures, err)
		}
		timer := time.NewTimer(joinPause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return zero, errors.Join(failures...)
		}
	}
}

func joinOne[T any](ctx context.Context, network mtls.Network, address string, token parsedToken, ask func(context.Context, clusterv1.JoinServiceClient) (T, error)) (T, error) {
	var zero T
	conn, err := dialPinned(ctx, network, address, token)
	if err != nil {
		return zero, err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, mtls.JoinCall)
	defer cancel()
	answer, err := ask(ctx, clusterv1.NewJoinServiceClient(conn))
	return answer, fromStatus(err)
}

// joinMaster fetches the cluster's identity with a token.
func joinMaster(ctx context.Context, cfg *Config, address string) (*identity.Identity, *member, error) {
	token, err := parseToken(cfg.Token)
	if err != nil {
		return nil, nil, err
	}
	if err := token.requireRole(pki.RoleMaster); err != nil {
		return nil, nil, err
	}
	response, err := join(ctx, cfg.Network, cfg.Logger, cfg.Join, token, func(ctx context.Context, client clusterv1.JoinServiceClient) (*clusterv1.JoinMasterResponse, error) {
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
	if !id.Accepts(token.pin) {
		return nil, nil, fmt.Errorf("join the cluster: %w: the identity received has another CA", ErrToken)
	}
	m := &member{Name: cfg.Name, Address: address, Gossip: response.Gossip, Join: mergeAddresses(cfg.Join, response.Masters, address), Recoveries: response.Recoveries}
	return id, m, nil
}

// mergeAddresses joins two lists, without duplicates and without self.
func mergeAddresses(a, b []string, self string) []string {
	seen := map[string]bool{self: true}
	var merged []string
	for _, address := range append(append([]string{}, a...), b...) {
		if !seen[address] {
			seen[address] = true
			merged = append(merged, address)
		}
	}
	return merged
}

// becomeMember asks the other masters to add this one, or to learn its new address, until they have.
func (c *Cluster) becomeMember(ctx context.Context) error {
	for {
		var failures []error
		for _, address := range c.knownMasters() {
			conn, err := c.peers.Line(address)
			if err == nil {
				call, cancel := context.WithTimeout(ctx, addBound)
				_, err = clusterv1.NewClusterServiceClient(conn).AddMember(call, &clusterv1.AddMemberRequest{Name: c.cfg.Name, Address: c.address})
				cancel()
			}
			err = fromStatus(err)
			switch {
			case err == nil:
				return nil
			case errors.Is(err, ErrNameTaken), errors.Is(err, ErrRemoved), errors.Is(err, ErrFeatureLevel):
				return fmt.Errorf("join the cluster: %w", err)
			case ctx.Err() != nil:
				return ctx.Err()
			}
			failures = append(failures, fmt.Errorf("%s: %w", address, err))
		}
		c.log.Warn("could not become a member yet, trying again", "error", errors.Join(failures...))
		timer := time.NewTimer(joinPause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
}

// knownMasters are addresses of other masters, from wherever they are known.
func (c *Cluster) knownMasters() []string {
	var configured []string
	for _, s := range c.replica.servers() {
		configured = append(configured, string(s.Address))
	}
	return mergeAddresses(c.memberNow().Join, configured, c.address)
}
