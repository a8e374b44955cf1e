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

// Config configures a master. Addresses are host:port.
type Config struct {
	// Name is unique among the cluster's hosts, masters and workers: a DNS-1123 subdomain of up to 63 characters.
	Name string
	// DataDir is the directory of all of this master's data; it is created with mode 0700.
	DataDir string

	// BindAddress is where the mTLS port listens (port 0 chooses a free one), AdvertiseAddress the address that others dial. If it is
	// empty, it is the bind address, with an unspecified host replaced by the machine's first global address.
	BindAddress, AdvertiseAddress string
	// GossipBindAddress and GossipAdvertiseAddress are the same for gossip (tcp and udp).
	GossipBindAddress, GossipAdvertiseAddress string
	// APIAddress is where this master serves the API; gossip distributes it.
	APIAddress string

	// Bootstrap starts a new cluster if DataDir is empty. Join (addresses of masters' mTLS ports) and Token (a token for the role master)
	// join an existing one. All three are ignored if DataDir holds a member already.
	Bootstrap bool
	Join      []string
	Token     string

	// APIHosts are further IP addresses and names in the API's serving certificate, beside this master's own.
	APIHosts []string
	// GossipMode is which hosts take part in gossip: "all" (the default), or "masters". It should be the same on all masters; the leader's
	// is used.
	GossipMode string
	// Version is this program's version, shown in Status.
	Version string

	// DeadAfter is how long a master must be dead before the leader removes it, if at least MinMasters voters remain and are alive; 0 means
	// never. A master that was removed so rejoins by itself.
	DeadAfter time.Duration
	// Backups is the schedule of this master's automatic backups.
	Backups backup.Schedule
	// Settings are the settings that all masters share.
	Settings Settings
	// FeatureLevel is the level that this program supports; 0 means FeatureLevel. Only tests of upgrades set a lower one.
	FeatureLevel int
	// DiskReserve is the size in bytes of a file that is deleted when the disk is full, to make room for votes and the last entries. A
	// master accepts no writes while its disk has less than DiskLow bytes free, in addition to the size of its newest snapshot. 0 means
	// 64 MiB and 128 MiB, a negative number means none.
	DiskReserve, DiskLow int64

	// Network is the network on which this master listens and dials; nil means the machine's.
	Network mtls.Network
	Timings Timings
	Logger  *slog.Logger // nil means slog.Default()
}

// Timings are the time limits and intervals of a master. A zero field takes its value from DefaultTimings.
type Timings struct {
	consensus.Timings
	// Handshake limits the TLS handshake of an incoming connection.
	Handshake time.Duration
	// Readmit is how long a master with damaged data looks for a leader before it gives up.
	Readmit time.Duration
	// Certificate is the lifetime of the certificates that this master issues; 0 means pki.DefaultTTL. They are renewed after two thirds
	// of it.
	Certificate time.Duration
	// SecretHistory is how long clients can resume from before a rotation of the key of Secrets.
	SecretHistory time.Duration
	// Gossip chooses how often the members of gossip are probed.
	Gossip gossip.Timings
}

const (
	defaultDiskReserve = 64 << 20
	defaultDiskLow     = 128 << 20
)

// DefaultTimings are the timings for production.
var DefaultTimings = Timings{
	Timings:   consensus.DefaultTimings,
	Handshake: 5 * time.Second,
	Readmit:   time.Minute,
	// as long as lists can be continued
	SecretHistory: 5 * time.Minute,
}

func (t Timings) withDefaults() Timings {
	t.Timings = t.Timings.WithDefaults()
	if t.Handshake <= 0 {
		t.Handshake = DefaultTimings.Handshake
	}
	if t.SecretHistory <= 0 {
		t.SecretHistory = DefaultTimings.SecretHistory
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
		return errors.New("a master either starts a new cluster or joins one: set bootstrap or join addresses, not both")
	}
	return nil
}

// advertised returns the address that other hosts dial: the given one, or the bound one with an unspecified host replaced by the
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
		return "", errors.New("this machine has no address that other hosts could dial: set an advertise address")
	}
	return best, nil
}
