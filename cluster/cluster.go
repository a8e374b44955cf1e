package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/kontiki/kontiki/cluster/backup"
	"github.com/kontiki/kontiki/cluster/consensus"
	"github.com/kontiki/kontiki/cluster/errclass"
	"github.com/kontiki/kontiki/cluster/gossip"
	"github.com/kontiki/kontiki/cluster/identity"
	"github.com/kontiki/kontiki/cluster/join"
	"github.com/kontiki/kontiki/cluster/mtls"
	"github.com/kontiki/kontiki/cluster/pki"
	"github.com/kontiki/kontiki/fsm"
	"github.com/kontiki/kontiki/internal/broadcast"
	"github.com/kontiki/kontiki/internal/durable"
	"github.com/kontiki/kontiki/internal/failpoint"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/internal/turn"
	clusterv1 "github.com/kontiki/kontiki/proto/kontiki/cluster/v1"
)

// Cluster is this master's part in its cluster. Its methods are safe for concurrent use; all but RegisterNode may be
// called once Open has returned.
type Cluster struct {
	consensus *consensus.Replica
	backups   *backup.Backups
	store     *fsm.Store
	address   string // the mTLS address that others dial
	log       *slog.Logger

	cfg      Config
	identity *identity.Live
	member   membership
	port     *mtls.Port
	gossip   *gossip.Gossip

	reconfigured   chan struct{} // the masters have changed; has room for one
	mastersChanged broadcast.Signal

	// certificates are this master's own, for the mTLS port; the others serve the API and call agents.
	certificates, apiCertificates, agentClientCertificates *identity.Certificates

	workers        followingWorkers
	trust          trust
	knownWorkers   atomic.Pointer[func() []string]
	identityChange turn.Turn // one change of the identity at a time

	clusterServer, nodeServer, joinServer *grpc.Server

	memberChange turn.Turn // one change of the members at a time

	ready  chan struct{}
	opened time.Time
	closer sync.Once
	closed error
}

var _ kv.Reader = (*Cluster)(nil)

// Open opens the master in Config.DataDir: a member that is there already, or the first of a new cluster, or one that
// fetches the identity of the cluster that it joins (this asks masters until the context ends). The master takes part in
// its cluster once Run runs; one that is not to be run must be closed. Errors: ErrToken, ErrNameTaken; texts say what to do.
func Open(ctx context.Context, cfg Config) (_ *Cluster, err error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	if err := durable.MakeDir(cfg.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("make the data directory: %w", err)
	}
	listener, err := cfg.Network.Listen(cfg.BindAddress)
	if err != nil {
		return nil, fmt.Errorf("listen for masters and workers: %w", err)
	}
	var undo []func()
	defer func() {
		if err != nil {
			for i := len(undo) - 1; i >= 0; i-- {
				undo[i]()
			}
		}
	}()
	undo = append(undo, func() { listener.Close() })
	address, err := advertised(cfg.AdvertiseAddress, listener.Addr())
	if err != nil {
		return nil, err
	}
	id, self, err := settle(ctx, &cfg, address)
	if err != nil {
		return nil, err
	}

	log := cfg.Logger.With("master", cfg.Name)
	host, _, _ := net.SplitHostPort(address)
	live := identity.NewLive(id, cfg.Timings.Certificate)
	own := identity.NewCertificates(live, cfg.Name, []string{cfg.Name, host})
	d := &mtls.Dialer{Network: cfg.Network, Roots: live.Roots, Certificate: own.Get}
	store := fsm.New(fsm.Options{NewestCommand: uint64(cfg.FeatureLevel)})
	c := &Cluster{
		consensus: consensus.New(consensus.Options{Name: cfg.Name, Address: address, Timings: cfg.Timings.Timings, Store: store, Connect: mtls.DialedBy(d), Log: log}),
		store:     store, address: address, log: log,
		cfg: cfg, identity: live, certificates: own,
		ready:        make(chan struct{}),
		opened:       time.Now(),
		reconfigured: make(chan struct{}, 1),
		memberChange: make(turn.Turn, 1), identityChange: make(turn.Turn, 1),
	}
	c.member.now.Store(self)
	apiHosts := append([]string{cfg.Name, host, "localhost", "127.0.0.1", "::1"}, cfg.APIHosts...)
	c.apiCertificates = &identity.Certificates{Live: live, Issue: func(ca *pki.Authority) (*pki.KeyPair, error) {
		return ca.IssueServing("kontiki-api", apiHosts)
	}}
	c.agentClientCertificates = &identity.Certificates{Live: live, Issue: func(ca *pki.Authority) (*pki.KeyPair, error) {
		return ca.IssueClient("kontiki-apiserver", []string{"system:masters"})
	}}
	c.port = mtls.NewPort(listener, live.Roots, own.Get, c.admit, mtls.RaftName(self.Recoveries), cfg.Timings.Handshake, log)
	undo = append(undo, func() {
		c.consensus.End()
		c.consensus.Close()
	})

	stream := mtls.NewStream(c.port.Listener(mtls.ProtoRaft), address, d, mtls.RaftName(self.Recoveries))
	if err := c.openDisk(ctx); err != nil {
		return nil, err
	}
	reconfigured := func() { broadcast.Poke(c.reconfigured); c.mastersChanged.Tell() }
	if err := c.consensus.Start(consensus.NewNetworkWire(stream, cfg.Timings.Timings, log), self.Bootstrap && !self.Complete, reconfigured); err != nil {
		return nil, err
	}

	transport, err := cfg.Network.Gossip(cfg.GossipBindAddress)
	if err != nil {
		return nil, fmt.Errorf("start gossip at %s: %w", cfg.GossipBindAddress, err)
	}
	c.gossip, err = gossip.Start(gossip.Config{
		Name: cfg.Name, Role: pki.RoleMaster, Address: address, APIAddress: cfg.APIAddress, Version: cfg.Version, Recoveries: self.Recoveries,
		BindAddress: cfg.GossipBindAddress, AdvertiseAddress: cfg.GossipAdvertiseAddress,
		Keys: id.GossipKeys, Timings: cfg.Timings.Gossip, Logger: log,
		Seeds: c.seeds, Transport: transport,
	})
	if err != nil {
		return nil, err
	}

	c.backups = backup.New(backup.Options{
		State: c.consensus, Name: cfg.Name, Version: cfg.Version, ClusterID: live.ClusterID, Dir: cfg.DataDir, DiskLow: cfg.DiskLow,
		SecretKeys: func() map[string][]byte { return live.Now().SecretKeys }, IdentityFile: identity.File,
		CleanUp: cfg.Timings.Propose, Schedule: cfg.Backups, RequireLevel: c.requireLevel, OtherMasters: c.otherMasters,
		Recovered:  func() string { return c.memberNow().Recovered },
		EpochBegun: func() error { return c.changeMember(func(m *member) { m.Recovered = "" }) },
		Log:        log,
	})

	c.clusterServer, c.nodeServer, c.joinServer = mtls.NewServer(log), mtls.NewServer(log), mtls.NewJoinServer(log)
	clusterv1.RegisterClusterServiceServer(c.clusterServer, clusterService{c: c})
	clusterv1.RegisterDiskServiceServer(c.clusterServer, diskService{c: c})
	clusterv1.RegisterJoinServiceServer(c.joinServer, joinService{c: c})
	clusterv1.RegisterWorkerServiceServer(c.nodeServer, workerService{c: c})
	clusterv1.RegisterCertsServiceServer(c.clusterServer, certsService{c: c})
	clusterv1.RegisterTrustServiceServer(c.nodeServer, trustService{c: c})
	c.consensus.AddClusterDuty("sweep join tokens", c.sweepTokens)
	c.consensus.AddClusterDuty("raise the feature level", c.keepFeatureLevel)
	c.consensus.AddClusterDuty("record the settings", c.recordSettings)
	c.consensus.AddClusterDuty("begin an epoch", c.backups.BeginEpoch)
	c.consensus.AddClusterDuty("sweep abandoned restores", c.backups.SweepAbandoned)
	c.consensus.AddClusterDuty("remove dead masters", c.removeDeadMasters)
	c.consensus.AddClusterDuty("rotate keys", c.advanceRotations)
	c.consensus.AddClusterDuty("record who gossips", c.recordGossipMode)
	return c, nil
}

// settle finds out what this master is, and makes it something where it is nothing yet.
func settle(ctx context.Context, cfg *Config, address string) (*identity.Identity, *member, error) {
	dir := cfg.DataDir
	id, err := identity.Load(dir)
	if errors.Is(err, fs.ErrNotExist) {
		id, err = nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	self, err := loadMember(dir)
	if err != nil {
		return nil, nil, err
	}
	raftState := consensus.HasState(filepath.Join(dir, "raft"))
	switch {
	case id == nil && (self != nil || raftState):
		return nil, nil, fmt.Errorf("%s holds a master's data, but not its %s: restore that file, or remove the directory and join again", dir, identity.File)
	case self != nil && self.Name != cfg.Name:
		return nil, nil, fmt.Errorf("the data in %s is the master %q's, not %q's: give that name, or another directory", dir, self.Name, cfg.Name)
	case self != nil:
		if token, err := join.ParseToken(cfg.Token); err == nil && !id.Owns(token.Pin) {
			return nil, nil, fmt.Errorf("%w: it is for another cluster (%s...) than the one that %s belongs to (%s...); to move this master, remove that directory",
				errclass.ErrToken, join.ShortPin(token.Pin), dir, join.ShortPin(id.CA.Pin()))
		}
		return id, self, nil
	case len(cfg.Join) > 0:
		cfg.Logger.Info("joining a cluster", "master", cfg.Name, "by", cfg.Join)
		if id, self, err = joinMaster(ctx, cfg, address); err != nil {
			return nil, nil, err
		}
	case cfg.Bootstrap:
		if id == nil {
			if id, err = identity.New(); err != nil {
				return nil, nil, err
			}
		}
		cfg.Logger.Info("starting a new cluster", "master", cfg.Name, "cluster", id.ClusterID)
		if err := writeInitialTokens(dir, id); err != nil {
			return nil, nil, err
		}
		self = &member{Name: cfg.Name, Address: address, Bootstrap: true}
	default:
		return nil, nil, fmt.Errorf("%s is empty: start a new cluster (bootstrap), or give an address to join by and a token", dir)
	}
	if err := id.Save(dir); err != nil {
		return nil, nil, err
	}
	failpoint.Hit("cluster.join.identitySaved")
	if err := self.save(dir); err != nil {
		return nil, nil, err
	}
	failpoint.Hit("cluster.join.saved")
	return id, self, nil
}

// RegisterNode lets a caller add services to the gRPC server that workers reach; call it before Run. Handlers find the
// calling worker with PeerFromContext.
func (c *Cluster) RegisterNode(register func(grpc.ServiceRegistrar)) { register(c.nodeServer) }

// Run takes part in the cluster until the context ends or something fails for good, and returns once everything is
// stopped and closed. A leader hands leadership over first. Stopping takes a few times Timings.Shutdown at most (and ten
// seconds more where a duty does not stop). Errors: ErrRemoved, ErrNameTaken.
func (c *Cluster) Run(ctx context.Context) error {
	g, running := errgroup.WithContext(ctx)
	// The port and what it serves live until close ends them: leadership is handed over through it.
	g.Go(c.port.Serve)
	for server, proto := range map[*grpc.Server]string{c.clusterServer: mtls.ProtoCluster, c.nodeServer: mtls.ProtoNode, c.joinServer: mtls.ProtoJoin} {
		g.Go(func() error {
			if err := server.Serve(c.port.Listener(proto)); err != nil && c.consensus.Life().Err() == nil {
				return fmt.Errorf("serve %s: %w", proto, err)
			}
			return nil
		})
	}
	leading := c.consensus.Run(running, g)
	g.Go(func() error {
		if err := c.settleIn(running); err != nil && running.Err() == nil {
			return err
		}
		return nil
	})
	g.Go(func() error { return c.refresh(running) })
	g.Go(func() error { return c.watchRecoveries(running) })
	g.Go(func() error { return c.watchHalt(running) })
	g.Go(func() error { return c.backups.RunSchedule(running, c.ready) })
	g.Go(func() error { return c.followIdentity(running) })
	g.Go(func() error {
		<-running.Done()
		c.consensus.StepAside(leading)
		return c.Close()
	})
	return g.Wait()
}

// settleIn makes this master a member where it is none yet, and tells when it is ready.
func (c *Cluster) settleIn(ctx context.Context) error {
	self := c.memberNow()
	switch {
	case !self.Complete && self.Bootstrap:
		if err := c.storeInitialTokens(ctx); err != nil {
			return fmt.Errorf("start a new cluster: %w", err)
		}
	case !self.Complete || self.Address != c.address:
		if err := c.becomeMember(ctx); err != nil {
			return err
		}
		failpoint.Hit("cluster.join.member")
	}
	if !self.Complete || self.Address != c.address {
		if err := c.changeMember(func(m *member) { m.Complete, m.Address = true, c.address }); err != nil {
			return err
		}
	}
	for {
		if c.removed() || c.missedRemoval(ctx) {
			if err := c.comeBack(ctx); err != nil {
				return err
			}
		}
		if err := c.checkLevel(); err != nil {
			return err
		}
		attempt, cancel := context.WithTimeout(ctx, 10*c.cfg.Timings.Election)
		_, err := c.Consistent(attempt)
		cancel()
		switch {
		case err == nil:
			if err := c.checkSettings(c.cfg.Name, c.cfg.Settings.Fixed); err != nil {
				return err
			}
			c.log.Info("this master is ready", "address", c.address, "leader", c.consensus.Leadership().Name)
			close(c.ready)
			return nil
		case ctx.Err() != nil || c.consensus.Life().Err() != nil:
			return ctx.Err()
		}
		c.log.Warn("no quorum of masters yet", "error", err)
	}
}

// refreshInterval is how often refresh looks when nothing tells it to.
const refreshInterval = 15 * time.Second

// refresh keeps what must be found again at the next start, lets go of connections to masters that are gone, and
// notices that this master was removed.
func (c *Cluster) refresh(ctx context.Context) error {
	select {
	case <-c.ready:
	case <-ctx.Done():
		return nil
	}
	interval := refreshInterval
	if c.cfg.Timings.Gossip == gossip.Local {
		interval /= 50
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	wasRemoved := false
	for {
		c.remember(c.gossip.AliveAddresses(), c.MasterAddresses()[1:])
		keep := map[string]bool{}
		for _, address := range c.MasterAddresses() {
			keep[address] = true
		}
		c.consensus.Forget(keep)
		if err := c.checkLevel(); err != nil {
			return err
		}
		// A configuration that is not committed may be taken back, so it has to say so twice.
		removed := c.removed() || c.missedRemoval(ctx)
		if removed && wasRemoved {
			if err := c.comeBack(ctx); err != nil {
				return err
			}
			removed = false
		}
		wasRemoved = removed
		select {
		case <-ticker.C:
		case <-c.reconfigured:
		case <-ctx.Done():
			return nil
		}
	}
}

func (c *Cluster) removed() bool {
	servers := c.consensus.Servers()
	for _, s := range servers {
		if s.ID == raft.ServerID(c.cfg.Name) {
			return false
		}
	}
	return len(servers) > 0
}

// missedRemoval asks the other masters for a leader whose configuration lacks this one, where this one knows of no leader:
// raft tries only once to tell a removed master.
func (c *Cluster) missedRemoval(ctx context.Context) bool {
	if c.consensus.Leadership().Name != "" {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, aliveBound)
	defer cancel()
	for _, s := range c.consensus.Servers() {
		if s.ID == raft.ServerID(c.cfg.Name) {
			continue
		}
		answer, err := c.consensus.Ask(ctx, string(s.Address))
		if err == nil && answer.Leader == answer.Name && !slices.Contains(answer.Masters, c.cfg.Name) {
			return true
		}
	}
	return false
}

// comeBack makes a master a member again that was removed while it was away: as a dead one, by the cluster itself. One that
// somebody removed stays out.
func (c *Cluster) comeBack(ctx context.Context) error {
	c.log.Warn("this master is no longer a member: it was away for long, and asks to be let in again")
	err := c.becomeMember(ctx)
	if errors.Is(err, errclass.ErrRemoved) {
		return fmt.Errorf("%w: to join again, remove %s and start with a token", err, c.cfg.DataDir)
	}
	return err
}

// Ready is closed once this master is a member with a vote and has shown a consistent state.
func (c *Cluster) Ready() <-chan struct{} { return c.ready }

// Close releases everything, in bounded time. Run does it by itself; it is for a cluster that was opened and not run.
func (c *Cluster) Close() error {
	c.closer.Do(func() { c.closed = c.shutdown(true) })
	return c.closed
}

func (c *Cluster) shutdown(polite bool) error {
	c.consensus.End()
	var wg sync.WaitGroup
	if polite {
		wg.Go(func() {
			if err := c.gossip.Close(); err != nil {
				c.log.Debug("leaving gossip", "error", err)
			}
		})
		c.consensus.Drain(c.cfg.Timings.Shutdown)
	} else {
		c.gossip.Abandon()
	}
	grace := time.Duration(0)
	if polite {
		grace = 200 * time.Millisecond
	}
	for _, server := range []*grpc.Server{c.clusterServer, c.nodeServer, c.joinServer} {
		wg.Go(func() { mtls.StopServer(server, grace) })
	}
	wg.Wait()
	c.port.Close() // raft may be reading a snapshot from a connection
	return c.consensus.Close()
}

// Identity is what the cluster's masters share, as it is now; read-only. It changes: see IdentityChanged.
func (c *Cluster) Identity() *identity.Identity { return c.identity.Now().Identity }

// Name is this master's name, Address the mTLS address that others dial, GossipAddress its gossip address.
func (c *Cluster) Name() string          { return c.cfg.Name }
func (c *Cluster) Address() string       { return c.address }
func (c *Cluster) GossipAddress() string { return c.gossip.Address() }

// Backups takes backups of the cluster's state, and brings them back.
func (c *Cluster) Backups() *backup.Backups { return c.backups }

// Gossip is this master's part in gossip.
func (c *Cluster) Gossip() *gossip.Gossip { return c.gossip }

// Members and MemberEvents are those of Gossip.
func (c *Cluster) Members() []gossip.Member     { return c.gossip.Members() }
func (c *Cluster) MemberEvents() *gossip.Events { return c.gossip.Events() }
