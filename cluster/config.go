package cluster

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"time"

	"github.com/kontiki/kontiki/cluster/backup"
	"github.com/kontiki/kontiki/cluster/consensus"
	"github.com/kontiki/kontiki/cluster/gossip"
	"github.com/kontiki/kontiki/cluster/join"
	"github.com/kontiki/kontiki/cluster/mtls"
)

// DefaultGossipPort is the port of gossip.
const DefaultGossipPort = 7946

// Config says what a master is and where its data and peers are. Addresses are host:port.
type Config struct {
	// Name is unique among the cluster's hosts, masters and workers: a DNS-1123 subdomain of up to 63 characters.
	Name string
	// DataDir holds everything of this master; it is created with mode 0700.
	DataDir string

	// BindAddress is where the mTLS port listens (port 0 chooses one), AdvertiseAddress what the others dial. An empty
	// AdvertiseAddress means the bind address, or the host's first address where that is unspecified.
	BindAddress, AdvertiseAddress string
	// GossipBindAddress and GossipAdvertiseAddress are the same for gossip (tcp and udp).
	GossipBindAddress, GossipAdvertiseAddress string
	// APIAddress is the host:port at which this master serves the API; it is told to the other hosts by gossip.
	APIAddress string

	// Bootstrap starts a new cluster where DataDir is empty. Join and Token join an existing one: addresses of masters'
	// mTLS ports, and a token for the role master. Both are ignored where DataDir already holds a member.
	Bootstrap bool
	Join      []string
	Token     string

	// APIHosts are the IP addresses and names that the API's serving certificate is for, beside this master's own.
	APIHosts []string
	// GossipMode is who takes part in gossip: "all" (the default), or "masters" (workers do not). The same on all masters: the one of the
	// leader counts.
	GossipMode string
	// Version is this binary's version, shown in Status.
	Version string

	// DeadAfter is how long a master may be dead before the leader removes it, where more than MinMasters would be left and
	// those are alive; 0 is never. It may come back by itself.
	DeadAfter time.Duration
	// Backups says where this master keeps backups that it takes by itself.
	Backups backup.Schedule
	// Settings must be the same on all masters.
	Settings Settings
	// FeatureLevel is the level that this program supports; 0 means FeatureLevel. It is lower in tests of upgrades only.
	FeatureLevel int
	// DiskReserve is the size in bytes of a file that is given up when the disk is full, so that votes and the last entries
	// still find room. A master whose disk has less than DiskLow bytes free, beside the size of its newest snapshot, takes
	// no writes. 0 means 64 MiB and 128 MiB, a negative number none.
	DiskReserve, DiskLow int64

	// Network is how this master listens and dials; nil is the machine's network.
	Network mtls.Network
	Timings Timings
	Logger  *slog.Logger // nil means slog.Default()
}

// Timings are the knobs of a master. A zero field takes its value from DefaultTimings.
type Timings struct {
	consensus.Timings
	// Handshake bounds the TLS handshake of an incoming connection.
	Handshake time.Duration
	// Readmit is how long a master whose data are damaged looks for a leader before it gives up.
	Readmit time.Duration
	// Certificate is how long certificates live that this master issues, its own and others'; 0 is pki.DefaultTTL. They are
	// renewed at two thirds of it.
	Certificate time.Duration
	// Gossip chooses how often the members of gossip are probed.
	Gossip gossip.Timings
}

const (
	defaultDiskReserve = 64 << 20
	defaultDiskLow     = 128 << 20
)

// DefaultTimings are those of the product.
var DefaultTimings = Timings{
	Timings:   consensus.DefaultTimings,
	Handshake: 5 * time.Second,
	Readmit:   time.Minute,
}

func (t Timings) withDefaults() Timings {
	t.Timings = t.Timings.WithDefaults()
	if t.Handshake <= 0 {
		t.Handshake = DefaultTimings.Handshake
	}
	if t.Readmit <= 0 {
		t.Readmit = DefaultTimings.Readmit
	}
	return t
}

func (cfg *Config) complete() error {
	if err := join.CheckName(cfg.Name); err != nil {
		return err
	}
	if cfg.DataDir == "" {
		return errors.New("no data directory given")
	}
	if cfg.BindAddress == "" {
		cfg.BindAddress = net.JoinHostPort("0.0.0.0", strconv.Itoa(mtls.DefaultPort))
	}
	if cfg.GossipBindAddress == "" {
		host, _, err := net.SplitHostPort(cfg.BindAddress)
		if err != nil {
			return fmt.Errorf("bind address %q: %w", cfg.BindAddress, err)
		}
		cfg.GossipBindAddress = net.JoinHostPort(host, strconv.Itoa(DefaultGossipPort))
	}
	if cfg.Network == nil {
		cfg.Network = mtls.Machine{}
	}
	if cfg.FeatureLevel == 0 {
		cfg.FeatureLevel = FeatureLevel
	}
	if err := CheckGossipMode(cfg.GossipMode); err != nil {
		return err
	}
	if cfg.Version == "" {
		cfg.Version = "unknown"
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	for _, f := range []struct {
		value *int64
		def   int64
	}{{&cfg.DiskReserve, defaultDiskReserve}, {&cfg.DiskLow, defaultDiskLow}} {
		if *f.value == 0 {
			*f.value = f.def
		}
		*f.value = max(*f.value, 0)
	}
	cfg.Timings = cfg.Timings.withDefaults()
	if cfg.Bootstrap && len(cfg.Join) > 0 {
		return errors.New("a master either starts a new cluster or joins one: give bootstrap or join addresses, not both")
	}
	return nil
}

// advertised is the address to tell others: the one given, or the one bound with an unspecified host replaced by the
// machine's first global address.
func advertised(given string, bound net.Addr) (string, error) {
	host, port, err := net.SplitHostPort(bound.String())
	if err != nil {
		return "", fmt.Errorf("bound address %q: %w", bound, err)
	}
	if given != "" {
		h, p, err := net.SplitHostPort(given)
		if err != nil {
			return "", fmt.Errorf("advertised address %q: %w", given, err)
		}
		if p == "0" || p == "" {
			p = port
		}
		return net.JoinHostPort(h, p), nil
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host, err = firstAddress()
		if err != nil {
			return "", err
		}
	}
	return net.JoinHostPort(host, port), nil
}

func firstAddress() (string, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return "", fmt.Errorf("list the machine's addresses: %w", err)
	}
	best := ""
	for _, a := range addrs {
		n, ok := a.(*net.IPNet)
		if !ok || !n.IP.IsGlobalUnicast() {
			continue
		}
		if n.IP.To4() != nil {
			return n.IP.String(), nil
		}
		if best == "" {
			best = n.IP.String()
		}
	}
	if best == "" {
		return "", errors.New("this machine has no address that others could dial: give an advertise address")
	}
	return best, nil
}
