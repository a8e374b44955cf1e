package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/kontiki/kontiki/cluster/backup"
	"github.com/kontiki/kontiki/cluster/consensus"
	"github.com/kontiki/kontiki/cluster/gossip"
	"github.com/kontiki/kontiki/cluster/identity"
	"github.com/kontiki/kontiki/cluster/mtls"
	"github.com/kontiki/kontiki/cluster/pki"
	"github.com/kontiki/kontiki/fsm"
	"github.com/kontiki/kontiki/internal/broadcast"
	"github.com/kontiki/kontiki/internal/durable"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/internal/turn"
	clusterv1 "github.com/kontiki/kontiki/proto/kontiki/cluster/v1"
)

// Cluster is one master of a cluster. Its methods are safe for concurrent use. RegisterNode and RegisterMasters must be called before
// Run, all others may be called once Open has returned.
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

	reconfigured   chan struct{} // receives a value when the masters have changed; has capacity for one
	mastersChanged broadcast.Signal

	// certificates are this master's certificates for the mTLS port, apiCertificates those that serve the API, agentClientCertificates those
	// with which the API calls agents.
	certificates, apiCertificates, agentClientCertificates *identity.Certificates

	workers        followingWorkers
	trust          trust
	knownWorkers   atomic.Pointer[func() []string]
	keyring        atomic.Pointer[Keyring]
	identityChange turn.Turn // one change of the identity at a time

	clusterServer, nodeServer, joinServer *grpc.Server

	memberChange turn.Turn // one change of the members at a time

	ready  chan struct{}
	opened time.Time
	closer sync.Once
	closed error
}

var _ kv.Reader = (*Cluster)(nil)

// Open opens the master in Config.DataDir: an existing member, the first master of a new cluster, or a master that joins a cluster and
// fetches its identity (Open retries this until the context ends). The master takes part in its cluster while Run runs; if Run is not
// called, the master must be closed. Errors: errclass.ErrToken, errclass.ErrNameTaken; their texts say what to do.
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
		SecretKeys: func() map[string][]byte { return live.Now().KeyMaterial() }, IdentityFile: identity.File,
		CleanUp: cfg.Timings.Propose, Schedule: cfg.Backups, RequireLevel: c.requireLevel, OtherMasters: c.otherMasters,
		Leading:    func() bool { return c.consensus.Leadership().Self },
		Recovered:  func() string { return c.memberNow().Recovered },
		EpochBegun: func() error { return c.changeMember(func(m *member) { m.Recovered = "" }) },
		Log:        log,
	})

	c.clusterServer, c.nodeServer, c.joinServer = mtls.NewServer(log), mtls.NewWorkerServer(log), mtls.NewJoinServer(log)
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
	c.consensus.AddClusterDuty("drop old keys of Secrets", c.retireSecretKeys)
	c.consensus.AddClusterDuty("record who gossips", c.recordGossipMode)
	return c, nil
}

// RegisterNode adds services to the gRPC server for workers; call it before Run. Handlers get the calling worker from
// mtls.PeerFromContext.
func (c *Cluster) RegisterNode(register func(grpc.ServiceRegistrar)) { register(c.nodeServer) }

// Run takes part in the cluster until the context ends or something fails permanently, and returns once everything has stopped and is
// closed. A leader transfers leadership first. Stopping takes at most a few times Timings.Shutdown, and ten seconds more if a duty
// does not stop. Errors: errclass.ErrRemoved, errclass.ErrNameTaken.
func (c *Cluster) Run(ctx context.Context) error {
	g, running := errgroup.WithContext(ctx)
	// The port and its servers run until Close ends them, because leadership is transferred through them.
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
	g.Go(func() error { return c.ageMemory(running) })
	g.Go(func() error {
		<-running.Done()
		c.consensus.StepAside(leading)
		return c.Close()
	})
	return g.Wait()
}

// Ready returns a channel that is closed once this master is a voting member and has completed a consistent read.
func (c *Cluster) Ready() <-chan struct{} { return c.ready }

// Close releases everything, in bounded time. Run calls it; call it for a cluster that was opened and not run.
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
	c.port.Close() // because raft may be reading a snapshot from a connection
	return c.consensus.Close()
}

// Identity returns the present identity, which all masters share; it must not be modified. It changes: see IdentityChanged.
func (c *Cluster) Identity() *identity.Identity { return c.identity.Now().Identity }

// Name returns this master's name, Address the mTLS address that others dial, GossipAddress its gossip address.
func (c *Cluster) Name() string          { return c.cfg.Name }
func (c *Cluster) Address() string       { return c.address }
func (c *Cluster) GossipAddress() string { return c.gossip.Address() }

// Backups returns what takes backups of the cluster's state and restores them.
func (c *Cluster) Backups() *backup.Backups { return c.backups }

// Gossip returns this master's member of gossip.
func (c *Cluster) Gossip() *gossip.Gossip { return c.gossip }

// Members and MemberEvents are shorthands for the methods of Gossip.
func (c *Cluster) Members() []gossip.Member     { return c.gossip.Members() }
func (c *Cluster) MemberEvents() *gossip.Events { return c.gossip.Events() }
