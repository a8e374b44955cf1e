package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/knftables"

	"github.com/kontiki/kontiki/node/netapi"
	"github.com/kontiki/kontiki/node/network/ns"
	"github.com/kontiki/kontiki/node/proxy/hold"
)

// tableName is the nftables table, of family ip, which only the proxy uses.
const tableName = "kontiki"

// Options are the parameters of a Proxy.
type Options struct {
	// Metrics count the writing of rules; nil counts nothing.
	Metrics *Metrics
	// NodeName decides which endpoints are local.
	NodeName string
	// LocalAddresses are service addresses that this node serves itself, besides the cluster DNS address from Configure: they get
	// no rules.
	LocalAddresses []netip.Addr
	// Reserved are ports that no service gets at an external address; nil is only that of VXLAN.
	Reserved netapi.Ports
	// Wake reports that connections wait for a service that wakes its workload (internal/wake); nil if no connections are held. Its errors are
	// those of hold.Config.Wake. It is not called before the first Sync.
	Wake func(ctx context.Context, service types.NamespacedName) error
	// CheckPeriod is how often the proxy checks that the table exists, as other programs may flush the whole ruleset; 0 means a
	// minute.
	CheckPeriod time.Duration
	// NFT may be nil, for the kernel of the calling thread's network namespace.
	NFT knftables.Interface
	// Log may be nil, for the default logger.
	Log *slog.Logger
}

// Proxy implements netapi.ServiceConsumer. Its methods are safe for concurrent use.
type Proxy struct {
	o     Options
	log   *slog.Logger
	nft   knftables.Interface
	space *ns.Namespace   // nil with a fake
	local map[string]bool // guarded by syncing
	wake  chan struct{}

	mu       sync.Mutex
	services []*corev1.Service
	slices   []*discoveryv1.EndpointSlice
	heard    bool // SetServices has been called
	ranges   ranges
	dns      netip.Addr // from Configure
	zone     string     // the node's zone
	address  netip.Addr // the node's own

	syncing sync.Mutex
	holder  *hold.Holder          // nil until a service needs it; guarded by syncing
	applied state                 // guarded by syncing
	health  map[int32]*healthPort // by port; guarded by syncing
}

// ranges are the cluster's address ranges; invalid if unknown.
type ranges struct{ pods, services netip.Prefix }

var _ netapi.ServiceConsumer = (*Proxy)(nil)

// New creates the Proxy of the calling thread's network namespace. It changes nothing in the kernel before the first Sync.
func New(o Options) (*Proxy, error) {
	if o.NodeName == "" {
		return nil, errors.New("proxy: NodeName is required")
	}
	if o.Reserved == nil {
		o.Reserved = netapi.PortsOf()
	}
	if o.CheckPeriod == 0 {
		o.CheckPeriod = time.Minute
	}
	p := &Proxy{o: o, log: o.Log, nft: o.NFT, wake: make(chan struct{}, 1), local: map[string]bool{}, health: map[int32]*healthPort{}}
	if p.log == nil {
		p.log = slog.Default()
	}
	for _, a := range o.LocalAddresses {
		p.local[a.String()] = true
	}
	if p.nft == nil {
		var err error
		if p.space, err = ns.Current(); err != nil {
			return nil, fmt.Errorf("proxy: %w", err)
		}
		if p.nft, err = knftables.New(knftables.IPv4Family, tableName); err != nil {
			p.space.Close()
			return nil, fmt.Errorf("proxy: %w", err)
		}
	}
	return p, nil
}

// Close releases the handles, closes the health check ports and ends the connections that this process holds; the rules stay.
func (p *Proxy) Close() {
	p.closeHealth()
	p.closeHolder()
	if p.space != nil {
		p.space.Close()
	}
}

// SetServices implements netapi.ServiceConsumer. It never blocks: Run applies the newest sets.
func (p *Proxy) SetServices(services []*corev1.Service, slices []*discoveryv1.EndpointSlice) {
	p.mu.Lock()
	p.services, p.slices, p.heard = services, slices, true
	p.mu.Unlock()
	p.poke()
}

// Configure sets the cluster's ranges and the node's zone. It never blocks, and always returns nil: Run applies them. (The error
// makes it a Follower of node/network.)
func (p *Proxy) Configure(_ context.Context, c netapi.NetworkConfig) error {
	r := ranges{pods: c.ClusterCIDR, services: c.ServiceCIDR}
	if !r.pods.IsValid() {
		r.pods = c.PodCIDR
	}
	p.mu.Lock()
	changed := p.ranges != r || p.dns != c.ClusterDNS || p.zone != c.Zone || p.address != c.NodeIP
	p.ranges, p.dns, p.zone, p.address = r, c.ClusterDNS, c.Zone, c.NodeIP
	p.mu.Unlock()
	if changed {
		p.poke()
	}
	return nil
}

func (p *Proxy) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Run applies changes until ctx ends. Updates that arrive during a transaction coalesce into the next one, and after each
// transaction Run sleeps twice as long as it took, so that many changes use at most a third of a core. A failure is logged, and a
// full transaction retried at growing intervals; the rules in the kernel keep working meanwhile.
func (p *Proxy) Run(ctx context.Context) error {
	const firstRetry, lastRetry = 100 * time.Millisecond, 10 * time.Second
	defer p.closeHealth()
	defer p.closeHolder()
	retry := firstRetry
	check := time.NewTicker(p.o.CheckPeriod)
	defer check.Stop()
	later := time.NewTimer(0)
	defer later.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.wake:
		case <-later.C:
		case <-check.C:
			p.check(ctx)
		}
		start := time.Now()
		again, err := p.sync(ctx)
		p.o.Metrics.synced(time.Since(start), err)
		rest := min(2*time.Since(start), time.Second)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			p.log.Error("service rules are not up to date, trying again", "err", err, "in", retry)
			later.Reset(retry)
			retry = min(2*retry, lastRetry)
		default:
			retry = firstRetry
			if again > 0 {
				later.Reset(again)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(rest):
		}
	}
}

// Sync applies the newest services and ranges now. Run does so by itself; tests and benchmarks call it.
func (p *Proxy) Sync(ctx context.Context) error {
	_, err := p.sync(ctx)
	return err
}

// sync also returns after how long it should be called again, to delete chains or to open a health check port (0 for never).
func (p *Proxy) sync(ctx context.Context) (again time.Duration, err error) {
	p.syncing.Lock()
	defer p.syncing.Unlock()
	p.mu.Lock()
	services, slices, heard, r, dns := p.services, p.slices, p.heard, p.ranges, p.dns
	at, address := place{node: p.o.NodeName, zone: p.zone}, p.address
	p.mu.Unlock()
	if !heard {
		return 0, nil
	}
	sleepers := p.sleepers(services)
	if err := p.openHolder(address, len(sleepers) > 0); err != nil {
		p.log.Warn("connections to services without endpoints are refused, though some wake their workloads; trying again", "err", err, "in", healthRetry)
		again = healthRetry
	}
	if p.holder != nil {
		at.holder = p.holder.Addr()
	}
	if dns.IsValid() && !p.local[dns.String()] {
		// Services rendered before may contain the address; that happens only once, so start again.
		p.local[dns.String()] = true
		p.applied.valid = false
	}
	start := time.Now()
	if later := p.deleteStale(ctx); again == 0 {
		again = later
	}
	full := !p.applied.valid
	stats, err := p.apply(ctx, services, slices, r, at, false)
	if err != nil && full {
		// The table may be of an older version with another structure: replace it, still in one transaction.
		stats, err = p.apply(ctx, services, slices, r, at, true)
	}
	if err != nil {
		p.applied.valid = false
		return 0, fmt.Errorf("sync services: %w", err)
	}
	if stats.operations > 0 {
		p.log.Debug("service rules written", "full", full, "services", stats.changed, "operations", stats.operations, "took", time.Since(start))
	}
	if again == 0 && len(p.applied.stale) > 0 {
		again = staleAge
	}
	if p.holder != nil {
		p.holder.Set(heldPorts(sleepers, slices, at))
	}
	if err := p.serveHealth(services, slices, at.node); err != nil {
		p.log.Warn("trying again", "err", err, "in", healthRetry)
		if again == 0 {
			again = healthRetry
		}
	}
	return again, nil
}

// check detects that the table was removed, and lets it be written again.
func (p *Proxy) check(ctx context.Context) {
	p.syncing.Lock()
	defer p.syncing.Unlock()
	if !p.applied.valid {
		return
	}
	var chains []string
	err := p.inside(func() (err error) {
		chains, err = p.nft.List(ctx, "chains")
		return err
	})
	if ctx.Err() != nil {
		return
	}
	there := map[string]bool{}
	for _, c := range chains {
		there[c] = true
	}
	if err != nil || !there[servicesChain] || !there["prerouting"] || !there["output"] || !there["postrouting"] {
		p.log.Warn("service rules were removed, writing them again", "table", tableName, "err", err)
		p.applied.valid = false
	}
}

// Cleanup removes the rules from the calling thread's network namespace; it is not an error if there is no table.
func Cleanup(ctx context.Context) error {
	nft, err := knftables.New(knftables.IPv4Family, tableName)
	if err != nil {
		return fmt.Errorf("remove service rules: %w", err)
	}
	tx := nft.NewTransaction()
	tx.Add(&knftables.Table{}) // so that there is one to delete
	tx.Delete(&knftables.Table{})
	if err := nft.Run(ctx, tx); err != nil {
		return fmt.Errorf("remove service rules: %w", err)
	}
	return nil
}

func (p *Proxy) inside(fn func() error) error {
	if p.space == nil {
		return fn()
	}
	return p.space.Do(fn)
}
