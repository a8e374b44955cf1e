// Package gossip reports which hosts of a cluster are alive, suspect, dead or have left, using hashicorp/memberlist (SWIM). Masters
// take part, and workers too unless there are too many of them; all messages are encrypted. The reported states are hints: confirm
// them before you act on them.
//
// memberlist invokes callbacks under its own lock, so its events only go into a map and into queues that never block (Events).
package gossip

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/kontiki/kontiki/cluster/pki"
	"github.com/kontiki/kontiki/internal/logline"
)

// Config says how this host takes part in gossip and how it finds others. Addresses are host:port.
type Config struct {
	Name string
	Role pki.Role
	// Address is how other hosts reach this one: a master's mTLS address, a worker's host address.
	Address string
	// APIAddress is the address at which a master serves the API; empty on workers.
	APIAddress string
	Version    string
	// Recoveries is a master's count of the cluster's recoveries.
	Recoveries uint64

	BindAddress, AdvertiseAddress string
	// Keys encrypt gossip: messages are encrypted with the first and decrypted with any. Each has 32 bytes.
	Keys [][]byte
	// Seeds returns gossip addresses of hosts that may be alive. It is called again whenever members are missing.
	Seeds func() []string
	// Transport sends and receives gossip; nil means memberlist's own, on the machine's network.
	Transport memberlist.Transport
	Timings   Timings
	Logger    *slog.Logger
}

// Timings selects how often members are probed.
type Timings uint8

const (
	// LAN are memberlist's LAN timers: a death is detected after 5 to 12 s.
	LAN Timings = iota
	// Local is for tests on loopback.
	Local
)

// State is the state of a host according to gossip. It is a hint: confirm it before you act on it.
type State string

const (
	Alive   State = "alive"
	Suspect State = "suspect" // this host's own probe failed; the others have not agreed yet
	Dead    State = "dead"
	Left    State = "left" // it announced that it leaves
)

// Member is one host in gossip.
type Member struct {
	Name       string    `json:"name"`
	Role       pki.Role  `json:"role"`
	Address    string    `json:"address"`
	APIAddress string    `json:"apiAddress,omitempty"`
	Gossip     string    `json:"gossipAddress"`
	Version    string    `json:"version,omitempty"`
	Recoveries uint64    `json:"recoveries,omitempty"`
	State      State     `json:"state"`
	Since      time.Time `json:"since"`
}

// memberMeta is a member's metadata; memberlist allows 512 bytes.
type memberMeta struct {
	Address string `json:"a,omitempty"`
	API     string `json:"p,omitempty"`
	Version string `json:"v,omitempty"`
	Past    uint64 `json:"r,omitempty"`
}

const (
	rejoinInterval = 15 * time.Second
	firstRejoin    = 500 * time.Millisecond
	leaveBound     = time.Second
	// forgottenAfter is how long a host that is dead or has left is remembered.
	forgottenAfter = 24 * time.Hour
	// goodbyes is how many hosts a leaving host notifies directly.
	goodbyes = 16
)

// Gossip is this host's membership in gossip. Its methods are safe for concurrent use.
type Gossip struct {
	config  Config
	list    *memberlist.Memberlist
	keyring *memberlist.Keyring
	address string
	meta    []byte
	log     *slog.Logger

	// mu guards the members. memberlist's callbacks take it while memberlist holds its own lock, so nothing may call memberlist
	// while it holds mu.
	mu      sync.Mutex
	members map[string]*Member // by gossip name
	leaving map[string]time.Time
	streams map[*Events]struct{}

	done chan struct{}
	wg   sync.WaitGroup
	once sync.Once
}

// gossipName distinguishes the master and the worker of one host.
func gossipName(role pki.Role, name string) string { return string(role) + "/" + name }

// Start joins gossip; Close leaves it. It needs no master, so workers use it too.
func Start(cfg Config) (*Gossip, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	meta, err := json.Marshal(memberMeta{Address: cfg.Address, API: cfg.APIAddress, Version: cfg.Version, Past: cfg.Recoveries})
	if err != nil {
		return nil, err
	}
	if len(meta) > memberlist.MetaMaxSize {
		return nil, fmt.Errorf("gossip metadata takes %d bytes, at most %d are allowed", len(meta), memberlist.MetaMaxSize)
	}
	if len(cfg.Keys) == 0 {
		return nil, errors.New("gossip needs a key")
	}
	g := &Gossip{
		config:  cfg,
		meta:    meta,
		log:     cfg.Logger,
		members: map[string]*Member{},
		leaving: map[string]time.Time{},
		streams: map[*Events]struct{}{},
		done:    make(chan struct{}),
	}
	list := memberlist.DefaultLANConfig()
	if cfg.Timings == Local {
		list = memberlist.DefaultLocalConfig()
		list.ProbeInterval, list.ProbeTimeout = 200*time.Millisecond, 100*time.Millisecond
		list.SuspicionMult, list.PushPullInterval = 3, 2*time.Second
		list.DeadNodeReclaimTime = 100 * time.Millisecond
	} else {
		list.DeadNodeReclaimTime = 30 * time.Second
	}
	list.Name = gossipName(cfg.Role, cfg.Name)
	if list.BindAddr, list.BindPort, err = splitPort(cfg.BindAddress); err != nil {
		return nil, fmt.Errorf("gossip bind address: %w", err)
	}
	list.AdvertisePort = list.BindPort
	if cfg.AdvertiseAddress != "" {
		if list.AdvertiseAddr, list.AdvertisePort, err = splitPort(cfg.AdvertiseAddress); err != nil {
			return nil, fmt.Errorf("gossip advertise address: %w", err)
		}
		if list.AdvertiseAddr, err = resolveIP(list.AdvertiseAddr); err != nil {
			return nil, fmt.Errorf("gossip advertise address: %w", err)
		}
	}
	if list.Keyring, err = memberlist.NewKeyring(cfg.Keys[1:], cfg.Keys[0]); err != nil {
		return nil, fmt.Errorf("gossip keys: %w", err)
	}
	g.keyring = list.Keyring
	list.Delegate, list.Events, list.Ping = callbacks{g}, callbacks{g}, callbacks{g}
	list.Logger = log.New(logline.Writer(g.memberlistLog), "", 0)
	list.Transport = cfg.Transport
	if g.list, err = memberlist.Create(list); err != nil {
		return nil, fmt.Errorf("start gossip at %s: %w", cfg.BindAddress, err)
	}
	g.address = g.list.LocalNode().Address()
	g.wg.Go(g.rejoin)
	return g, nil
}

func splitPort(address string) (string, int, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, err
	}
	n, err := strconv.Atoi(port)
	if err != nil || n < 0 || n > 65535 {
		return "", 0, fmt.Errorf("%q is not a port", port)
	}
	return host, n, nil
}

func resolveIP(host string) (string, error) {
	if net.ParseIP(host) != nil {
		return host, nil
	}
	addresses, err := net.LookupHost(host)
	if err != nil {
		return "", err
	}
	return addresses[0], nil
}

// SetKeys changes the keys while gossip is running: the first one encrypts, all decrypt.
func (g *Gossip) SetKeys(keys [][]byte) error {
	if len(keys) == 0 {
		return errors.New("gossip needs a key")
	}
	for _, key := range keys {
		if err := g.keyring.AddKey(key); err != nil {
			return fmt.Errorf("gossip keys: %w", err)
		}
	}
	if err := g.keyring.UseKey(keys[0]); err != nil {
		return fmt.Errorf("gossip keys: %w", err)
	}
	for _, old := range slices.Clone(g.keyring.GetKeys()) {
		if slices.ContainsFunc(keys, func(key []byte) bool { return bytes.Equal(key, old) }) {
			continue
		}
		if err := g.keyring.RemoveKey(old); err != nil {
			return fmt.Errorf("gossip keys: %w", err)
		}
	}
	return nil
}

// Keys returns the keys in use; the first one encrypts.
func (g *Gossip) Keys() [][]byte { return g.keyring.GetKeys() }

// Address returns the gossip address at which others reach this host.
func (g *Gossip) Address() string { return g.address }

// Members returns all hosts that gossip knows, including this one, by name. Hosts that are dead or have left are included for 24
// hours.
func (g *Gossip) Members() []Member {
	g.mu.Lock()
	defer g.mu.Unlock()
	members := make([]Member, 0, len(g.members))
	for _, m := range g.members {
		members = append(members, *m)
	}
	slices.SortFunc(members, func(a, b Member) int {
		if d := strings.Compare(a.Name, b.Name); d != 0 {
			return d
		}
		return strings.Compare(string(a.Role), string(b.Role))
	})
	return members
}

// AliveAddresses returns the gossip addresses of the other hosts that are alive, masters first.
func (g *Gossip) AliveAddresses() []string {
	var masters, workers []string
	for _, m := range g.Members() {
		switch {
		case m.State != Alive || (m.Name == g.config.Name && m.Role == g.config.Role):
		case m.Role == pki.RoleMaster:
			masters = append(masters, m.Gossip)
		default:
			workers = append(workers, m.Gossip)
		}
	}
	return append(masters, workers...)
}

// rejoin contacts hosts that are known but not alive: at start, and after a partition that lasted longer than memberlist remembers
// dead hosts.
func (g *Gossip) rejoin() {
	wait := firstRejoin
	for round := 0; ; round++ {
		missing := g.missing(round)
		if len(missing) > 0 {
			if n, err := g.list.Join(missing); n == 0 && err != nil {
				g.log.Debug("gossip found no other hosts yet", "tried", missing, "error", err)
			}
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-g.done:
			timer.Stop()
			return
		}
		if wait = 2 * wait; wait > rejoinInterval {
			wait = rejoinInterval
		}
	}
}

// rejoinAtOnce is how many missing hosts are contacted in one round.
const rejoinAtOnce = 8

// missing returns seeds and dead members that are not alive: at most rejoinAtOnce, so that a large outage costs little, and
// different ones in each round, so that all are tried.
func (g *Gossip) missing(round int) []string {
	alive := map[string]bool{g.Address(): true}
	var missing []string
	for _, m := range g.Members() {
		switch m.State {
		case Alive, Suspect:
			alive[m.Gossip] = true
		case Dead:
			missing = append(missing, m.Gossip)
		}
	}
	if g.config.Seeds != nil {
		missing = append(g.config.Seeds(), missing...)
	}
	missing = slices.DeleteFunc(missing, func(a string) bool { return a == "" || alive[a] })
	slices.Sort(missing)
	missing = slices.Compact(missing)
	if len(missing) <= rejoinAtOnce {
		return missing
	}
	begin := round * rejoinAtOnce % len(missing)
	return slices.Concat(missing[begin:], missing[:begin])[:rejoinAtOnce]
}

// Close announces that this host leaves, and stops, in bounded time.
func (g *Gossip) Close() error {
	var err error
	g.once.Do(func() {
		self := gossipName(g.config.Role, g.config.Name)
		for i, address := range g.AliveAddresses() {
			if i == goodbyes {
				break
			}
			// Without this the others could not tell leaving from dying: memberlist does not forward the announcement.
			_ = g.list.SendToAddress(memberlist.Address{Addr: address}, []byte(leavingPrefix+self))
		}
		err = g.list.Leave(leaveBound)
		err = errors.Join(err, g.stop())
	})
	return err
}

// Abandon stops without announcing it.
func (g *Gossip) Abandon() { g.once.Do(func() { _ = g.stop() }) }

func (g *Gossip) stop() error {
	close(g.done)
	err := g.list.Shutdown()
	g.wg.Wait()
	g.mu.Lock()
	for stream := range g.streams {
		stream.end()
	}
	g.mu.Unlock()
	return err
}

const leavingPrefix = "leaving "

// callbacks implements memberlist's callback interfaces; memberlist holds its own lock when it calls them.
type callbacks struct{ g *Gossip }

// NodeMeta implements memberlist.Delegate.
func (c callbacks) NodeMeta(int) []byte { return c.g.meta }

// NotifyMsg implements memberlist.Delegate: another host announces that it leaves.
func (c callbacks) NotifyMsg(message []byte) {
	if name, ok := strings.CutPrefix(string(message), leavingPrefix); ok {
		c.g.goodbye(name)
	}
}

// GetBroadcasts, LocalState, MergeRemoteState and AckPayload implement memberlist's interfaces; this package sends nothing more.
func (callbacks) GetBroadcasts(int, int) [][]byte { return nil }
func (callbacks) LocalState(bool) []byte          { return nil }
func (callbacks) MergeRemoteState([]byte, bool)   {}
func (callbacks) AckPayload() []byte              { return nil }

// NotifyJoin, NotifyUpdate and NotifyLeave implement memberlist.EventDelegate.
func (c callbacks) NotifyJoin(node *memberlist.Node)   { c.g.heard(node) }
func (c callbacks) NotifyUpdate(node *memberlist.Node) { c.g.heard(node) }
func (c callbacks) NotifyLeave(node *memberlist.Node)  { c.g.lost(node.Name) }

// NotifyPingComplete implements memberlist.PingDelegate: a suspect that answers is alive.
func (c callbacks) NotifyPingComplete(node *memberlist.Node, _ time.Duration, _ []byte) {
	c.g.mu.Lock()
	defer c.g.mu.Unlock()
	if m := c.g.members[node.Name]; m != nil && m.State == Suspect {
		c.g.set(m, Alive)
	}
}

func (g *Gossip) goodbye(name string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.leaving[name] = time.Now()
	if m := g.members[name]; m != nil && m.State == Dead && time.Since(m.Since) < 10*time.Second {
		g.set(m, Left)
	}
}

func (g *Gossip) heard(node *memberlist.Node) {
	role, name, ok := strings.Cut(node.Name, "/")
	if !ok {
		return
	}
	var meta memberMeta
	if err := json.Unmarshal(node.Meta, &meta); err != nil {
		g.log.Warn("a host's gossip metadata cannot be decoded", "host", node.Name, "error", err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.leaving, node.Name)
	m := g.members[node.Name]
	if m == nil {
		m = &Member{Name: name, Role: pki.Role(role)}
		g.members[node.Name] = m
	}
	m.Address, m.APIAddress, m.Version, m.Recoveries, m.Gossip = meta.Address, meta.API, meta.Version, meta.Past, node.Address()
	g.set(m, Alive)
	for key, other := range g.members {
		if (other.State == Dead || other.State == Left) && time.Since(other.Since) > forgottenAfter {
			delete(g.members, key)
			delete(g.leaving, key)
		}
	}
}

// lost handles a member that memberlist reports as dead or left.
func (g *Gossip) lost(name string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	m := g.members[name]
	if m == nil {
		return
	}
	state := Dead
	if said, ok := g.leaving[name]; ok && time.Since(said) < 30*time.Second {
		state = Left
	}
	g.set(m, state)
}

// set changes a member's state and informs the streams. The caller holds mu.
func (g *Gossip) set(m *Member, state State) {
	if m.State != state {
		m.State, m.Since = state, time.Now()
	}
	for stream := range g.streams {
		stream.push(*m)
	}
}

var (
	logLevels     = map[string]slog.Level{"[DEBUG]": slog.LevelDebug - 4, "[INFO]": slog.LevelDebug, "[WARN]": slog.LevelDebug, "[ERR]": slog.LevelWarn}
	suspectedLine = regexp.MustCompile(`Suspect (\S+) has failed, no acks received`)
)

// memberlistLog receives memberlist's log. Its line about a failed probe is memberlist's only report of a suspicion.
func (g *Gossip) memberlistLog(line []byte) {
	text := string(line)
	if m := suspectedLine.FindStringSubmatch(text); m != nil {
		g.mu.Lock()
		if member := g.members[m[1]]; member != nil && member.State == Alive {
			g.set(member, Suspect)
		}
		g.mu.Unlock()
	}
	level := slog.LevelDebug
	if tag, rest, ok := strings.Cut(text, " "); ok {
		if l, known := logLevels[tag]; known {
			level, text = l, strings.TrimPrefix(rest, "memberlist: ")
		}
	}
	g.log.Log(context.Background(), level, "gossip: "+text)
}
