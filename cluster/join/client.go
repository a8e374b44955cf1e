package join

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

	"google.golang.org/grpc"

	"github.com/kontiki/kontiki/cluster/errclass"
	"github.com/kontiki/kontiki/cluster/mtls"
	"github.com/kontiki/kontiki/cluster/pki"
	"github.com/kontiki/kontiki/internal/pause"
	clusterv1 "github.com/kontiki/kontiki/proto/kontiki/cluster/v1"
)

const (
	DialBound = 5 * time.Second
	Pause     = time.Second
)

// Dial connects to a master's join service. Before anything is sent, the server must present a certificate under the CA that the
// token pins.
func Dial(ctx context.Context, network mtls.Network, address string, token Token) (*grpc.ClientConn, error) {
	ctx, cancel := context.WithTimeout(ctx, DialBound)
	defer cancel()
	raw, err := network.Dial(ctx, address)
	if err != nil {
		return nil, fmt.Errorf("reach %s: %w", address, err)
	}
	config := &tls.Config{
		MinVersion:         tls.VersionTLS13,
		NextProtos:         []string{mtls.ProtoJoin},
		InsecureSkipVerify: true, // VerifyConnection does it, by the pin
		VerifyConnection:   func(state tls.ConnectionState) error { return verifyPinned(state, token.Pin) },
	}
	conn := tls.Client(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		if errors.Is(err, errclass.ErrToken) {
			return nil, fmt.Errorf("join by %s: %w", address, err)
		}
		return nil, fmt.Errorf("join by %s: this is not the port of a Kontiki master (%d, by default): %w", address, mtls.DefaultPort, err)
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

// verifyPinned looks for the CA with the pin in the chain that the server sent, and verifies the server's certificate with it.
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
		return errors.New("the server sent no CA certificate")
	}
	return fmt.Errorf("%w: the server belongs to another cluster (its CA is %s..., the token is for %s...); check the address, or make a token on that cluster with `kontiki token create`",
		errclass.ErrToken, ShortPin(seen), ShortPin(pin))
}

// Ask asks one master after another, until one lets this host join or refuses it permanently.
func Ask[T any](ctx context.Context, network mtls.Network, log *slog.Logger, addresses []string, token Token, ask func(context.Context, clusterv1.JoinServiceClient) (T, error)) (T, error) {
	var zero T
	if len(addresses) == 0 {
		return zero, errors.New("no address of a master to join is given")
	}
	for {
		var failures []error
		for _, address := range addresses {
			answer, err := joinOne(ctx, network, address, token, ask)
			switch {
			case err == nil:
				return answer, nil
			case errors.Is(err, errclass.ErrToken), errors.Is(err, errclass.ErrNameTaken), errors.Is(err, errclass.ErrFeatureLevel), errors.Is(err, errclass.ErrRefused):
				return zero, err
			case ctx.Err() != nil:
				return zero, errors.Join(append(failures, err)...)
			}
			log.Warn("could not join, trying again", "master", address, "error", err)
			failures = append(failures, err)
		}
		if !pause.For(ctx, Pause) {
			return zero, errors.Join(failures...)
		}
	}
}

func joinOne[T any](ctx context.Context, network mtls.Network, address string, token Token, ask func(context.Context, clusterv1.JoinServiceClient) (T, error)) (T, error) {
	var zero T
	conn, err := Dial(ctx, network, address, token)
	if err != nil {
		return zero, err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, mtls.JoinCall)
	defer cancel()
	answer, err := ask(ctx, clusterv1.NewJoinServiceClient(conn))
	return answer, errclass.FromStatus(err)
}

// MergeAddresses merges two lists, without duplicates and without self.
func MergeAddresses(a, b []string, self string) []string {
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
