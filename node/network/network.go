package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"sigs.k8s.io/knftables"

	"github.com/kontiki/kontiki/node/netapi"
	"github.com/kontiki/kontiki/node/network/ns"
)

var (
	// ErrNotConfigured means that the node's address or pod range is not known yet; it is worth a retry after Configure.
	ErrNotConfigured error = notConfigured{}
	// ErrNoAddress means that every address of the node's pod range is taken.
	ErrNoAddress = errors.New("no free pod address on this node")
)

type notConfigured struct{}

func (notConfigured) Error() string { return "network is not configured yet" }

// Awaited says that a master is about to tell the range, as after each start of the agent: no event is due at once.
func (notConfigured) Awaited() bool { return true }

// Follower gets the same configuration as the network, after it was applied: the service proxy is one.
type Follower interface {
	Configure(ctx context.Context, c netapi.NetworkConfig) error
}

// Options are the parameters of a Network.
type Options struct {
	// StateDir stores the pods' addresses. Only the Network may write there; it is created if it is missing.
	StateDir string
	// Followers are configured after the network, in this order.
	Followers []Follower
	// Reserved are ports that no pod gets as a host port; nil is only that of VXLAN.
	Reserved netapi.Ports
	// VNI is the VXLAN network identifier, 0 means 1. All nodes must use the same.
	VNI int
	// Log may be nil, for the default logger.
	Log *slog.Logger
}

// Network implements netapi.Network on Linux. Its methods are safe for concurrent use.
type Network struct {
	o     Options
	log   *slog.Logger
	space *ns.Namespace
	nl    *netlink.Handle
	nft   knftables.Interface
	store *store
	pods  keyLocks
	guard *guard

	configuring sync.Mutex // one Configure at a time
	ruling      sync.Mutex // one change of nftables at a time
	ruled       string     // the rules in the kernel as last written; guarded by ruling

	mu     sync.Mutex
	config netapi.NetworkConfig
	local  bool // config.NodeIP is an address of this namespace
	mtu    int  // the MTU of pods
}

var _ netapi.Network = (*Network)(nil)

// New creates the Network of the calling thread's network namespace and reads the allocated addresses. It changes nothing in the
// kernel before Configure. Close it to release its handles.
func New(o Options) (*Network, error) {
	if o.Reserved == nil {
		o.Reserved = netapi.PortsOf()
	}
	if o.StateDir == "" {
		return nil, errors.New("network: StateDir is required")
	}
	if o.VNI == 0 {
		o.VNI = 1
	}
	n := &Network{o: o, log: o.Log}
	if n.log == nil {
		n.log = slog.Default()
	}
	var err error
	if n.store, err = openStore(o.StateDir); err != nil {
		return nil, fmt.Errorf("network: %w", err)
	}
	if n.space, err = ns.Current(); err != nil {
		return nil, fmt.Errorf("network: %w", err)
	}
	if n.nl, err = n.space.Handle(); err != nil {
		n.space.Close()
		return nil, fmt.Errorf("network: %w", err)
	}
	if n.nft, err = knftables.New(knftables.IPv4Family, tableName); err != nil {
		n.space.Close()
		return nil, fmt.Errorf("network: %w", err)
	}
	if n.guard, err = newGuard(n.space.Do, n.store.all()); err != nil {
		n.space.Close()
		return nil, fmt.Errorf("network: %w", err)
	}
	return n, nil
}

// Close releases the handles; the kernel's state stays, and so do the pods' connections.
func (n *Network) Close() { n.space.Close() }

// Configure implements netapi.Network. Without a node address or pod range it only stores c.
func (n *Network) Configure(ctx context.Context, c netapi.NetworkConfig) error {
	n.configuring.Lock()
	defer n.configuring.Unlock()
	if err := n.configure(ctx, c); err != nil {
		return fmt.Errorf("configure network: %w", err)
	}
	for _, f := range n.o.Followers {
		if err := f.Configure(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

func (n *Network) configure(ctx context.Context, c netapi.NetworkConfig) error {
	if !c.NodeIP.Is4() || !c.PodCIDR.IsValid() {
		return nil
	}
	if !c.PodCIDR.Addr().Is4() || c.PodCIDR.Bits() > 30 {
		return fmt.Errorf("pod range %s: want an IPv4 range of at least four addresses", c.PodCIDR)
	}
	c.PodCIDR = c.PodCIDR.Masked()
	if err := n.space.Do(enableForwarding); err != nil {
		return err
	}
	under, err := n.underlay(c.NodeIP)
	if err != nil {
		return err
	}
	if err := n.guard.configure(ctx, c, under.local); err != nil {
		return err
	}
	n.mu.Lock()
	n.config, n.local, n.mtu = c, under.local, under.mtu
	n.mu.Unlock()
	link, err := n.ensureVXLAN(c, under)
	if err != nil {
		return err
	}
	if err := n.ensureRangeRoute(c); err != nil {
		return err
	}
	if err := n.ensurePeers(link, c); err != nil {
		return err
	}
	return n.applyRules(ctx)
}

func (n *Network) settings() (c netapi.NetworkConfig, local bool, mtu int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.config, n.local, n.mtu
}

// AddPod implements netapi.Network. After a failure the pod keeps its address for the next attempt; DelPod frees it.
func (n *Network) AddPod(ctx context.Context, p netapi.PodNetwork) (netip.Addr, error) {
	defer n.pods.lock(p.UID)()
	n.store.claim(p.UID)
	fail := func(err error) (netip.Addr, error) {
		return netip.Addr{}, fmt.Errorf("network of pod %s/%s: %w", p.Namespace, p.Name, err)
	}
	c, local, mtu := n.settings()
	if !c.PodCIDR.IsValid() {
		return fail(ErrNotConfigured)
	}
	r, known := n.store.get(p.UID)
	moved := !known || !samePorts(r.HostPorts, p.HostPorts) // host ports that another pod may have had before
	if !known {
		var err error
		if r, err = n.store.allocate(c.PodCIDR, p); err != nil {
			return fail(err)
		}
	} else if r.NetNS != p.NetNS || !samePorts(r.HostPorts, p.HostPorts) {
		r.NetNS, r.HostPorts = p.NetNS, p.HostPorts
		if err := n.store.put(r); err != nil {
			return fail(err)
		}
	}
	if err := n.guard.admit(ctx, r); err != nil {
		return fail(err)
	}
	w := wire{link: vethName(p.UID), netns: p.NetNS, addr: r.Address, mtu: mtu, localhost: len(r.HostPorts) > 0}
	if local {
		w.source = c.NodeIP
	}
	if err := n.connect(w); err != nil {
		return fail(err)
	}
	if moved || len(r.HostPorts) > 0 {
		if err := n.applyRules(ctx); err != nil { // writes nothing when nothing changed
			return fail(err)
		}
	}
	if moved {
		n.forgetFlows(r)
	}
	return r.Address, nil
}

// DelPod implements netapi.Network. The pod's network namespace need not exist any more.
func (n *Network) DelPod(ctx context.Context, uid string) error {
	defer n.pods.lock(uid)()
	return n.delPod(ctx, uid)
}

func (n *Network) delPod(ctx context.Context, uid string) error {
	r, known := n.store.get(uid)
	if err := n.deleteLink(vethName(uid)); err != nil {
		return fmt.Errorf("free network of pod %s: %w", uid, err)
	}
	if !known {
		return nil
	}
	// The rules are removed before the record: after a crash in between, the address must not be given to another pod while they
	// exist.
	if err := n.guard.forget(ctx, r); err != nil {
		return fmt.Errorf("free network of pod %s/%s: %w", r.Namespace, r.Name, err)
	}
	if len(r.HostPorts) > 0 {
		n.store.hide(uid)
		if err := n.applyRules(ctx); err != nil {
			return fmt.Errorf("free host ports of pod %s/%s: %w", r.Namespace, r.Name, err)
		}
		n.forgetFlows(r)
	}
	if err := n.store.remove(uid); err != nil {
		return fmt.Errorf("free address of pod %s/%s: %w", r.Namespace, r.Name, err)
	}
	return nil
}

// Sweep implements netapi.Network: it removes the network of pods of earlier processes that are not in keep, and this package's
// devices that belong to no pod.
func (n *Network) Sweep(ctx context.Context, keep []string) error {
	return n.sweep(ctx, keep, n.store.isInherited)
}

// sweep frees the pods that are not in keep and that may allows to free.
func (n *Network) sweep(ctx context.Context, keep []string, may func(uid string) bool) error {
	links, err := n.nl.LinkList() // before the records are read: a pod that is being added has its record first
	if err != nil {
		return fmt.Errorf("list devices: %w", err)
	}
	keepLinks := map[string]bool{}
	keepUIDs := map[string]bool{}
	for _, uid := range keep {
		keepUIDs[uid] = true
		keepLinks[vethName(uid)] = true
	}
	free := func(r record) error {
		defer n.pods.lock(r.UID)()
		if !may(r.UID) {
			return nil
		}
		n.log.Info("freeing the network of a pod that is gone", "pod", r.Namespace+"/"+r.Name, "uid", r.UID, "address", r.Address)
		return n.delPod(ctx, r.UID)
	}
	var errs []error
	for _, r := range n.store.all() {
		keepLinks[vethName(r.UID)] = true
		if !keepUIDs[r.UID] {
			errs = append(errs, free(r))
		}
	}
	for _, l := range links {
		if name := l.Attrs().Name; isPodLink(l) && !keepLinks[name] {
			errs = append(errs, n.deleteLink(name))
		}
	}
	return errors.Join(errs...)
}

// Teardown removes everything that the Network ever created in its namespace and on disk: pods' devices, the VXLAN, routes, rules
// and addresses. The Network can be configured again afterwards.
func (n *Network) Teardown(ctx context.Context) error {
	n.configuring.Lock()
	defer n.configuring.Unlock()
	errs := []error{n.sweep(ctx, nil, func(string) bool { return true })}
	errs = append(errs, n.deleteLink(vxlanName)) // its routes, neighbours and forwarding entries are removed with it
	errs = append(errs, n.removeRangeRoutes(netip.Prefix{}))
	n.ruling.Lock()
	tx := n.nft.NewTransaction()
	tx.Add(&knftables.Table{}) // so that there is one to delete
	tx.Delete(&knftables.Table{})
	errs = append(errs, n.space.Do(func() error { return n.nft.Run(ctx, tx) }))
	n.ruled = ""
	n.ruling.Unlock()
	errs = append(errs, n.guard.remove(ctx))
	n.mu.Lock()
	n.config = netapi.NetworkConfig{}
	n.mu.Unlock()
	errs = append(errs, os.RemoveAll(n.o.StateDir))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("tear down network: %w", err)
	}
	return nil
}

// Cleanup removes what a Network with that StateDir created in the calling thread's network namespace. It is for an agent that is
// not running; a running one calls Teardown.
func Cleanup(ctx context.Context, stateDir string) error {
	n, err := New(Options{StateDir: stateDir})
	if err != nil {
		return err
	}
	defer n.Close()
	return n.Teardown(ctx)
}

func samePorts(a, b []netapi.HostPort) bool {
	return len(a) == 0 && len(b) == 0 || reflect.DeepEqual(a, b)
}

func enableForwarding() error { return setSysctl("net/ipv4/ip_forward", "1") }

// setSysctl sets a sysctl of the calling thread's namespace. If the value is already right, it needs no permission to write.
func setSysctl(name, value string) error {
	path := "/proc/sys/" + name
	if b, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(b)) == value {
		return nil
	}
	if err := os.WriteFile(path, []byte(value), 0o644); err != nil {
		return fmt.Errorf("set sysctl: %w", err)
	}
	return nil
}

// keyLocks is a mutex for each key in use.
type keyLocks struct {
	mu sync.Mutex
	m  map[string]*keyLock
}

type keyLock struct {
	sync.Mutex
	users int
}

func (k *keyLocks) lock(key string) (unlock func()) {
	k.mu.Lock()
	if k.m == nil {
		k.m = map[string]*keyLock{}
	}
	l := k.m[key]
	if l == nil {
		l = &keyLock{}
		k.m[key] = l
	}
	l.users++
	k.mu.Unlock()
	l.Lock()
	return func() {
		l.Unlock()
		k.mu.Lock()
		if l.users--; l.users == 0 {
			delete(k.m, key)
		}
		k.mu.Unlock()
	}
}
