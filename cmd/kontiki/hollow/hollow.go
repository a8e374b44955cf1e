// Package hollow runs workers that are real in all that masters see, and run no containers: each has an identity, a session, a journal, an
// agent and a kubelet-compatible port of its own; only the container runtime is that of package fake, and the network connects nothing.
// Thousands of them in a few processes load masters as a large cluster does.
package hollow

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/cluster/worker"
	"github.com/kontiki/kontiki/internal/pause"
	"github.com/kontiki/kontiki/node/agent"
	"github.com/kontiki/kontiki/node/runtime/fake"
	"github.com/kontiki/kontiki/node/server"
)

// Label is a label of every hollow worker's node.
const Label = "kontiki.io/hollow"

// Options describe the workers of a process.
type Options struct {
	// Count is how many there are. First is the number of the first; a worker's name is hollow- and its number, with five digits.
	Count, First int
	// Addresses has the workers' addresses, which this host must accept: the worker with the number n has the n-th after the first.
	Addresses netip.Prefix
	// DataDir has a directory for each worker. It should be in memory, as thousands of workers share this machine's disk.
	DataDir string
	Join    []string
	Token   string
	// StartDelay is how long a container takes to start.
	StartDelay time.Duration
	// Capacity are the resources of each worker.
	Capacity corev1.ResourceList
	Port     int
	Version  string
	Log      *slog.Logger
}

// collectAt is by how many percent the heap grows until it is collected: its many small objects are long-lived.
const collectAt = 300

// joining limits how many workers join at a time.
const joining = 8

// retryJoin is how long a worker that could not join waits before it tries again.
const retryJoin = time.Second

// Name returns the name of a worker.
func Name(number int) string { return fmt.Sprintf("hollow-%05d", number) }

// address returns the address of a worker.
func (o *Options) address(number int) (netip.Addr, error) {
	b := o.Addresses.Masked().Addr().As4()
	n := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	n += uint32(number-o.First) + 1
	a := netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
	if !o.Addresses.Contains(a) {
		return a, fmt.Errorf("the range %s has no address for worker %d: use a larger one", o.Addresses, number)
	}
	return a, nil
}

// check returns what is wrong with the options.
func (o *Options) check() error {
	switch {
	case o.Count < 1:
		return fmt.Errorf("--count: %d is not positive", o.Count)
	case o.First < 0:
		return fmt.Errorf("--first: %d is negative", o.First)
	case !o.Addresses.IsValid() || !o.Addresses.Addr().Is4():
		return errors.New("--addresses: a range of IPv4 addresses is required")
	case o.StartDelay < 0:
		return fmt.Errorf("--start-delay: %s is negative", o.StartDelay)
	}
	_, err := o.address(o.First + o.Count - 1)
	return err
}

// Run runs the workers until the context ends.
func Run(ctx context.Context, o Options) error {
	if err := o.check(); err != nil {
		return err
	}
	debug.SetGCPercent(collectAt)
	slots, decoded := make(chan struct{}, joining), new(agent.Decoded)
	group, ctx := errgroup.WithContext(ctx)
	for n := o.First; n < o.First+o.Count; n++ {
		group.Go(func() error { return o.runOne(ctx, n, slots, decoded) })
	}
	return group.Wait()
}

func (o *Options) runOne(ctx context.Context, number int, slots chan struct{}, decoded *agent.Decoded) error {
	address, err := o.address(number)
	if err != nil {
		return err
	}
	name := Name(number)
	log := o.Log.With("node", name)
	identity, err := o.join(ctx, name, address, slots, log)
	if err != nil {
		return err
	}
	runtime := fake.NewHollow(o.StartDelay)
	a, err := agent.New(agent.Config{
		NodeName: name, NodeIP: address, StateDir: filepath.Join(o.DataDir, name, "agent"), LogDir: filepath.Join(o.DataDir, name, "log", "pods"),
		Runtime: runtime, Network: &network{}, Masters: identity.Masters(),
		Dial:   func(_ context.Context, address string) (*grpc.ClientConn, error) { return identity.Connect(address) },
		Labels: map[string]string{Label: "true"}, Port: int32(o.Port), Version: o.Version, Capacity: o.Capacity, Decoded: decoded,
	})
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(address.String(), strconv.Itoa(o.Port)))
	if err != nil {
		return fmt.Errorf("%s: listen for masters: %w", name, err)
	}
	kubelet := server.New(server.Config{Pods: a.Pods(), Runtime: runtime, Node: a.Node, Stats: a.Stats(), TLS: identity.ServerTLS, Verify: server.AllowMasters()})
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return identity.Run(ctx) })
	group.Go(func() error { return a.Run(ctx) })
	group.Go(func() error { return kubelet.Serve(ctx, listener) })
	return group.Wait()
}

// join joins the cluster. It tries again while masters cannot take the worker, as a service manager would start it again.
func (o *Options) join(ctx context.Context, name string, address netip.Addr, slots chan struct{}, log *slog.Logger) (*worker.Identity, error) {
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		identity, err := worker.Join(ctx, worker.Config{Name: name, Dir: filepath.Join(o.DataDir, name, "identity"), Join: o.Join, Token: o.Token,
			Addresses: []string{address.String()}, Logger: log})
		<-slots
		if err == nil {
			return identity, nil
		}
		log.Warn("the worker could not join; trying again", "error", err)
		if !pause.For(ctx, retryJoin) {
			return nil, ctx.Err()
		}
	}
}
