// Package containerd runs containers through containerd, 1.6 or newer. It alone imports containerd's client.
//
// The persistent state is in containerd's records: everything the agent needs after a restart is in a container's labels.
// Namespaces, shared memory and cgroups of a pod are on the host, named by the pod's UID.
package containerd

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	client "github.com/containerd/containerd/v2/client"
	contentproxy "github.com/containerd/containerd/v2/core/content/proxy"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	"github.com/kontiki/kontiki/node/runtime"
	"github.com/kontiki/kontiki/node/selinux"
)

// Config has the parameters of a Runtime. All paths are absolute and in the mount namespace of containerd.
type Config struct {
	// Metrics count the calls to containerd; nil counts nothing.
	Metrics *Metrics
	// Address is containerd's socket, such as "/run/containerd/containerd.sock".
	Address string
	// Namespace is the containerd namespace; agents that share one containerd need different ones.
	Namespace string
	// StateDir has pinned namespaces and sockets. Keep it short: paths of sockets are limited to 108 bytes.
	StateDir string
	// CgroupParent is the parent of all pods' cgroups, such as "kontiki/NODE".
	CgroupParent string
	// Logger is the command that runs a container's logger: a binary, and the argument that makes it call logger.Main with the
	// arguments after it.
	Logger [2]string
	// Snapshotter is the name of containerd's snapshotter, "" for overlayfs.
	Snapshotter string
	// LogMaxBytes and LogMaxFiles limit a container's log; 0 means the kubelet's defaults.
	LogMaxBytes int64
	LogMaxFiles int
	// InsecureRegistries are hosts, besides localhost, that are accessed without TLS.
	InsecureRegistries []string
	// RegistryConfigDir has a directory for each registry with its hosts.toml (mirrors, certificates, plain HTTP), as containerd's own
	// configuration has; "" for none.
	RegistryConfigDir string
	// Handlers are what RuntimeClasses can name besides DefaultHandler.
	Handlers []Handler
	// SELinux gives containers labels; nil gives none.
	SELinux *selinux.Host
	// Peers are asked for images before the registry is; may be nil.
	Peers runtime.Peers
}

// Runtime implements runtime.Runtime.
type Runtime struct {
	c                Config
	client           *client.Client
	cg               cgroups
	ownCaps          []string
	minOOMScoreAdj   int
	features         runtime.Features
	handlers         map[string]handler // by name
	bootID           string
	idleOutput       time.Duration // shorter in tests, like the next one
	pullTimeout      time.Duration
	limits           imageLimits
	accountCache     sync.Map // from chain id to imageAccounts
	whole, described sync.Map // by manifest digest: images known to be complete, and their descriptions
	leases           sync.Map // by id: those that are held
	pulls            pullGroup
	lifeCtx          context.Context
	cancel           context.CancelFunc
	hostNet          *os.File // the agent's network namespace
	wg               sync.WaitGroup
	mu               sync.Mutex
	containers       map[string]*container
	listeners        map[chan runtime.Event]struct{}
	locks            map[string]*namedLock
}

var _ runtime.Runtime = (*Runtime)(nil)

// New connects to containerd, waiting for it until ctx ends, and finds the existing containers. Call Close after use.
func New(ctx context.Context, c Config) (*Runtime, error) {
	if c.Snapshotter == "" {
		c.Snapshotter = "overlayfs"
	}
	caps, minOOM, err := ownLimits()
	if err != nil {
		return nil, err
	}
	for _, d := range []string{"sandboxes", "io", "tmp"} {
		// No other user of the host may access what is below, whatever the modes of files of pods and images.
		d = filepath.Join(c.StateDir, d)
		if err := errors.Join(os.MkdirAll(d, 0o700), os.Chmod(d, 0o700)); err != nil {
			return nil, err
		}
	}
	if err := mount.SetTempMountLocation(filepath.Join(c.StateDir, "tmp")); err != nil {
		return nil, err
	}
	store := &documents{}
	options := []client.Opt{client.WithServices(client.WithContentStore(store)), client.WithDefaultNamespace(c.Namespace), client.WithTimeout(10 * time.Second)}
	if c.Metrics != nil {
		options = append(options, client.WithExtraDialOpts([]grpc.DialOption{grpc.WithChainUnaryInterceptor(c.Metrics.intercept)}))
	}
	cl, err := client.New(c.Address, options...)
	if err != nil {
		return nil, fmt.Errorf("connect to containerd at %s: %w", c.Address, err)
	}
	store.Store = contentproxy.NewContentStore(cl.Conn())
	hostNet, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, errors.Join(err, cl.Close())
	}
	life, cancel := context.WithCancel(namespaces.WithNamespace(context.Background(), c.Namespace))
	r := &Runtime{c: c, client: cl, cg: newCgroups(), ownCaps: caps, minOOMScoreAdj: minOOM, features: hostFeatures(ctx, c.StateDir), bootID: bootID(), idleOutput: idleOutput, pullTimeout: pullTimeout, limits: defaultLimits, lifeCtx: life, cancel: cancel, hostNet: hostNet,
		containers: map[string]*container{}, listeners: map[chan runtime.Event]struct{}{}, locks: map[string]*namedLock{}}
	r.handlers = handlersOf(ctx, c.Handlers, r.features)
	r.features.Handlers = featuresOf(r.handlers)
	r.features.SELinuxLabels = c.SELinux != nil
	r.features.Swap = r.cg.v2 && limitsSwap(r.cg.root)
	store.limits = &r.limits
	if err := r.keepLabels(); err != nil {
		r.Close()
		return nil, err
	}
	for {
		if err = r.recover(r.ns(ctx)); err == nil {
			if err = r.sweepStreams(); err == nil {
				r.wg.Go(r.sweepLoop)
				return r, nil
			}
		}
		if !isUnavailable(err) {
			break
		}
		select {
		case <-ctx.Done():
			r.Close()
			return nil, fmt.Errorf("connect to containerd at %s: %w", c.Address, err)
		case <-time.After(200 * time.Millisecond):
		}
	}
	r.Close()
	return nil, fmt.Errorf("find containers: %w", err)
}

// Close stops watching; containers keep running.
func (r *Runtime) Close() error {
	r.cancel()
	r.wg.Wait()
	return errors.Join(r.client.Close(), r.hostNet.Close())
}

// ns adds the containerd namespace to a context.
func (r *Runtime) ns(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, r.c.Namespace)
}

func (r *Runtime) Version(ctx context.Context) (string, error) {
	v, err := r.client.Version(r.ns(ctx))
	if err != nil {
		return "", classify(err)
	}
	version := v.Version
	for i, c := range version { // Debian's "1.6.20~ds1" is not a version that clients parse
		if c == '~' {
			version = version[:i]
			break
		}
	}
	return "containerd://" + version, nil
}

// classify converts containerd's errors to the runtime's classes.
func classify(err error) error {
	switch {
	case err == nil:
		return nil
	case errdefs.IsNotFound(err):
		return fmt.Errorf("%w: %w", runtime.ErrNotFound, err)
	case isUnavailable(err):
		return fmt.Errorf("%w: %w", runtime.ErrUnavailable, err)
	}
	return err
}

func isUnavailable(err error) bool {
	return errdefs.IsUnavailable(err) || errors.Is(err, runtime.ErrUnavailable)
}

func newID() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

type namedLock struct {
	mu    sync.Mutex
	users int
}

// lock serializes operations on one name; the returned function unlocks.
func (r *Runtime) lock(name string) func() {
	r.mu.Lock()
	l := r.locks[name]
	if l == nil {
		l = &namedLock{}
		r.locks[name] = l
	}
	l.users++
	r.mu.Unlock()
	l.mu.Lock()
	return func() {
		l.mu.Unlock()
		r.mu.Lock()
		if l.users--; l.users == 0 {
			delete(r.locks, name)
		}
		r.mu.Unlock()
	}
}

// Events implements runtime.Runtime.
func (r *Runtime) Events(ctx context.Context) <-chan runtime.Event {
	ch := make(chan runtime.Event, 256)
	r.mu.Lock()
	r.listeners[ch] = struct{}{}
	r.mu.Unlock()
	out := make(chan runtime.Event)
	go func() {
		defer close(out)
		defer func() {
			r.mu.Lock()
			delete(r.listeners, ch)
			r.mu.Unlock()
		}()
		for {
			select {
			case <-ctx.Done():
				return
			case e := <-ch:
				if len(ch) == cap(ch)-1 {
					e = runtime.Event{} // the queue was full: some events are lost
				}
				select {
				case out <- e:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return out
}

// tell never blocks: a slow listener loses events.
func (r *Runtime) tell(e runtime.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for ch := range r.listeners {
		select {
		case ch <- e:
		default:
		}
	}
}
