package cluster

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/hashicorp/raft"
	"github.com/kontiki/kontiki/cluster/errclass"
	"github.com/kontiki/kontiki/cluster/identity"
	"github.com/kontiki/kontiki/cluster/mtls"
	"github.com/kontiki/kontiki/cluster/pki"
	clusterv1 "github.com/kontiki/kontiki/proto/kontiki/cluster/v1"
)

// Certificates is what `kontiki cluster certs` shows.
type Certificates struct {
	ClusterID string `json:"clusterID"`
	// Generation is that of the identity of the master that was asked; a host with a lower one has not adopted the last change yet.
	Generation uint64 `json:"generation"`
	// Rotations describes the rotations in progress.
	Rotations []string `json:"rotations,omitempty"`
	// Gossip is which hosts take part in gossip: "all" or "masters".
	Gossip  string               `json:"gossip"`
	Masters []MasterCertificates `json:"masters"`
	Workers []WorkerCertificates `json:"workers"`
	Revoked map[string]time.Time `json:"revoked,omitempty"`
}

// MasterCertificates are the certificates of one master. If it does not respond, only Name is set.
type MasterCertificates struct {
	Name         string                  `json:"name"`
	Reachable    bool                    `json:"reachable"`
	Generation   uint64                  `json:"generation"`
	CAs          []AuthorityInfo         `json:"cas"`
	Certificates []CertificateInfo       `json:"certificates"`
	GossipKeys   int                     `json:"gossipKeys"`
	SecretKey    string                  `json:"secretKey"`
	Workers      map[string]workerReport `json:"workers,omitempty"`
}

// AuthorityInfo is a CA that a master trusts.
type AuthorityInfo struct {
	Role     string    `json:"role"` // issuing, next or previous
	Pin      string    `json:"pin"`
	NotAfter time.Time `json:"notAfter"`
}

// CertificateInfo is a certificate that a master uses.
type CertificateInfo struct {
	Use      string    `json:"use"`
	Issuer   string    `json:"issuer"` // the CA's pin
	NotAfter time.Time `json:"notAfter"`
	RenewAt  time.Time `json:"renewAt"`
}

// WorkerCertificates are the certificates of one worker, as it last reported them to a master.
type WorkerCertificates struct {
	Name string `json:"name"`
	// Master is the master that the worker is connected to; empty if it is not connected.
	Master string `json:"master,omitempty"`
	// Stopped is true if the worker announced that it stops.
	Stopped    bool      `json:"stopped,omitempty"`
	Generation uint64    `json:"generation"`
	Issuer     string    `json:"issuer,omitempty"`
	NotAfter   time.Time `json:"notAfter,omitzero"`
}

// workerReport is what a master knows about a worker that is or was connected to it.
type workerReport struct {
	Following  bool      `json:"following"`
	Left       bool      `json:"left,omitempty"`
	Since      time.Time `json:"since"`
	Generation uint64    `json:"generation"`
	Issuer     string    `json:"issuer"`
	NotAfter   time.Time `json:"notAfter"`
	Address    string    `json:"address"`
}

// ownCertificates returns this master's certificates, and its reports about workers.
func (c *Cluster) ownCertificates() (MasterCertificates, error) {
	id := c.identity.Now()
	own := MasterCertificates{
		Name: c.cfg.Name, Reachable: true, Generation: id.Generation, GossipKeys: len(id.GossipKeys), SecretKey: id.SealingKey(),
		Workers: map[string]workerReport{},
	}
	for role, ca := range map[string]*pki.Authority{"issuing": id.CA, "next": id.NextCA, "previous": id.PreviousCA} {
		if ca != nil {
			own.CAs = append(own.CAs, AuthorityInfo{Role: role, Pin: ca.Pin(), NotAfter: ca.Certificate().NotAfter})
		}
	}
	slices.SortFunc(own.CAs, func(a, b AuthorityInfo) int { return strings.Compare(a.Role, b.Role) })
	for _, use := range []struct {
		name  string
		certs *identity.Certificates
	}{{"master", c.certificates}, {"api", c.apiCertificates}, {"agent-client", c.agentClientCertificates}} {
		cert, err := use.certs.Get()
		if err != nil {
			return own, err
		}
		own.Certificates = append(own.Certificates, CertificateInfo{Use: use.name, Issuer: id.CA.Pin(), NotAfter: cert.Leaf.NotAfter, RenewAt: pki.RenewAt(cert.Leaf)})
	}
	known := c.workers.all()
	for name, w := range known {
		own.Workers[name] = workerReport{Following: w.streams > 0, Left: w.left, Since: w.since, Generation: w.generation, Issuer: w.issuer, NotAfter: w.notAfter, Address: w.address}
	}
	return own, nil
}

// everyMasterBound leaves enough time to reconnect to a master that has just restarted.
const everyMasterBound = 2 * time.Second

// everyMaster asks all masters for their certificates. A master that does not respond in time is returned as not reachable.
func (c *Cluster) everyMaster(ctx context.Context) []MasterCertificates {
	ctx, cancel := context.WithTimeout(ctx, everyMasterBound)
	defer cancel()
	servers := c.consensus.Servers()
	all := make([]MasterCertificates, len(servers))
	var wg sync.WaitGroup
	for i, server := range servers {
		wg.Go(func() {
			own, err := c.masterCertificates(ctx, string(server.ID), string(server.Address))
			if err != nil || own.Name != string(server.ID) {
				own = MasterCertificates{Name: string(server.ID)}
			}
			all[i] = own
		})
	}
	wg.Wait()
	slices.SortFunc(all, func(a, b MasterCertificates) int { return strings.Compare(a.Name, b.Name) })
	return all
}

func (c *Cluster) masterCertificates(ctx context.Context, name, address string) (own MasterCertificates, err error) {
	if name == c.cfg.Name {
		return c.ownCertificates()
	}
	conn, err := c.consensus.Line(address)
	if err != nil {
		return own, err
	}
	response, err := clusterv1.NewCertsServiceClient(conn).Own(ctx, &clusterv1.OwnCertsRequest{}, grpc.WaitForReady(true))
	if err != nil {
		return own, err
	}
	return own, json.Unmarshal(response.Json, &own)
}

// workersOf merges the masters' reports about workers: the report of the master that the worker is connected to is used, otherwise the
// latest one.
func workersOf(masters []MasterCertificates) []WorkerCertificates {
	type known struct {
		workerReport
		master string
	}
	best := map[string]known{}
	for _, m := range masters {
		for name, w := range m.Workers {
			b, ok := best[name]
			if !ok || (w.Following && !b.Following) || (w.Following == b.Following && w.Since.After(b.Since)) {
				best[name] = known{w, m.Name}
			}
		}
	}
	var workers []WorkerCertificates
	for _, name := range slices.Sorted(maps.Keys(best)) {
		b := best[name]
		w := WorkerCertificates{Name: name, Stopped: b.Left && !b.Following, Generation: b.Generation, Issuer: b.Issuer, NotAfter: b.NotAfter}
		if b.Following {
			w.Master = b.master
		}
		workers = append(workers, w)
	}
	return workers
}

// mastersBehind describes the masters that do not have a generation or a later one.
func mastersBehind(masters []MasterCertificates, generation uint64) (behind []string) {
	for _, m := range masters {
		switch {
		case !m.Reachable:
			behind = append(behind, fmt.Sprintf("the master %s does not answer (start it, or remove it with `kontiki cluster remove %s`)", m.Name, m.Name))
		case m.Generation < generation:
			behind = append(behind, fmt.Sprintf("the master %s has not adopted the last change (see its log)", m.Name))
		}
	}
	return behind
}

// behind describes the masters and the connected workers that do not have a generation. Workers that are not connected get it when they
// reconnect.
func (c *Cluster) behind(ctx context.Context, generation uint64) []string {
	masters := c.everyMaster(ctx)
	behind := mastersBehind(masters, generation)
	for _, w := range workersOf(masters) {
		if w.Master != "" && w.Generation < generation {
			behind = append(behind, fmt.Sprintf("the worker %s has not adopted the last change (see its agent's log)", w.Name))
		}
	}
	return behind
}

// notMoved describes the hosts that would be locked out if only the issuing CA were still trusted.
func (c *Cluster) notMoved(ctx context.Context, id *identity.Identity) []string {
	masters := c.everyMaster(ctx)
	stuck := mastersBehind(masters, id.Generation)
	seen := map[string]bool{}
	for _, w := range workersOf(masters) {
		seen[w.Name] = true
		switch {
		case w.Issuer == id.CA.Pin() && w.Generation >= id.Generation:
		case w.Master == "":
			stuck = append(stuck, fmt.Sprintf("the worker %s is not connected", w.Name))
		default:
			stuck = append(stuck, fmt.Sprintf("the worker %s still has a certificate of the old CA", w.Name))
		}
	}
	var others []string
	for _, m := range c.gossip.Members() {
		if m.Role == mtls.RoleWorker {
			others = append(others, m.Name)
		}
	}
	if known := c.knownWorkers.Load(); known != nil {
		others = append(others, (*known)()...)
	}
	slices.Sort(others)
	for _, name := range slices.Compact(others) {
		if !seen[name] {
			stuck = append(stuck, fmt.Sprintf("the worker %s is not connected", name))
		}
	}
	return stuck
}

// SetKnownWorkers sets the function that returns the names of all registered workers. Without it, a worker that has not connected since
// the masters started could be locked out at the end of a rotation of the CA.
func (c *Cluster) SetKnownWorkers(known func() []string) { c.knownWorkers.Store(&known) }

// Certificates collects the certificates of the whole cluster. It takes at most two seconds.
func (c *Cluster) Certificates(ctx context.Context) (*Certificates, error) {
	id := c.identity.Now()
	workersGossip, _ := c.trust.get()
	all := &Certificates{
		ClusterID: id.ClusterID, Generation: id.Generation, Masters: c.everyMaster(ctx), Workers: []WorkerCertificates{},
		Gossip: gossipAll, Revoked: map[string]time.Time{},
	}
	if !workersGossip {
		all.Gossip = gossipMastersOnly
	}
	c.trust.mu.Lock()
	for name, r := range c.trust.revoked {
		all.Revoked[name] = r.Since
	}
	c.trust.mu.Unlock()
	all.Workers = append(all.Workers, workersOf(all.Masters)...)
	for i := range all.Masters {
		all.Masters[i].Workers = nil
	}
	for _, r := range []struct {
		underWay bool
		text     string
	}{
		{id.NextCA != nil, "CA: the new one issues once every host trusts it"},
		{id.PreviousCA != nil, "CA: the old one is trusted until `kontiki cluster certs rotate-ca --finish`"},
		{id.GossipStep != "", "gossip key: " + cmp.Or(id.GossipStep, "none")},
		{id.NextSecretKey != "", "secret key: used once every master has it"},
		{id.NextTokenKey != nil, "token key: signs once every master knows it"},
		{id.PreviousTokenKey != nil, "token key: tokens of the old one are valid until `kontiki cluster certs rotate-token-key --finish`"},
	} {
		if r.underWay {
			all.Rotations = append(all.Rotations, r.text)
		}
	}
	return all, nil
}

// IdentityChange is a change of the cluster's identity that an administrator requests.
type IdentityChange = clusterv1.ChangeIdentityRequest_Action

// The changes that can be requested.
const (
	RenewCertificates = clusterv1.ChangeIdentityRequest_ACTION_RENEW
	RotateCA          = clusterv1.ChangeIdentityRequest_ACTION_ROTATE_CA
	FinishCA          = clusterv1.ChangeIdentityRequest_ACTION_FINISH_CA
	RotateGossipKey   = clusterv1.ChangeIdentityRequest_ACTION_ROTATE_GOSSIP_KEY
	RotateSecretKey   = clusterv1.ChangeIdentityRequest_ACTION_ROTATE_SECRET_KEY
	RotateToOwnKey    = clusterv1.ChangeIdentityRequest_ACTION_ROTATE_TO_OWN_SECRET_KEY
	RotateTokenKey    = clusterv1.ChangeIdentityRequest_ACTION_ROTATE_TOKEN_KEY
	FinishTokenKey    = clusterv1.ChangeIdentityRequest_ACTION_FINISH_TOKEN_KEY
	revokeWorker      = clusterv1.ChangeIdentityRequest_ACTION_REVOKE_WORKER
)

// ChangeIdentity starts a change, on any master, and returns the generation that it leads to. The leader then moves it from step to step as
// the hosts adopt each one. Only FinishCA and FinishTokenKey, which end the trust in an old CA or token key, must be requested; FinishCA is
// refused while a host would be locked out, unless force is set. Errors: identity.ErrRotating, identity.ErrNotRotated,
// identity.ErrNotMoved.
func (c *Cluster) ChangeIdentity(ctx context.Context, action IdentityChange, force bool) (generation uint64, err error) {
	return c.change(ctx, &clusterv1.ChangeIdentityRequest{Action: action, Force: force})
}

func (c *Cluster) change(ctx context.Context, r *clusterv1.ChangeIdentityRequest) (generation uint64, err error) {
	lost := false // the response to an attempt, which may have succeeded
	err = c.onLeader(ctx, func(ctx context.Context) error {
		generation, err = c.changeHere(ctx, r)
		lost = lost || errors.Is(err, raft.ErrLeadershipLost)
		return err
	}, func(ctx context.Context, _ clusterv1.ClusterServiceClient) error {
		conn, err := c.consensus.Line(c.consensus.Leadership().Address)
		if err != nil {
			return err
		}
		response, err := clusterv1.NewCertsServiceClient(conn).Change(ctx, r)
		generation = response.GetGeneration()
		lost = lost || status.Code(err) == codes.Unavailable
		return rotationError(err)
	})
	if lost && doneBefore(r.Action, err) {
		return c.identity.Now().Generation, nil
	}
	return generation, err
}

// doneBefore says whether an error of a repeated attempt means that the change has been made: a change of the identity replaces
// connections, and with them the response to the first attempt may be lost.
func doneBefore(action IdentityChange, err error) bool {
	switch action {
	case FinishCA, FinishTokenKey:
		return errors.Is(err, identity.ErrNotRotated)
	case RotateCA, RotateGossipKey, RotateSecretKey, RotateToOwnKey, RotateTokenKey:
		return errors.Is(err, identity.ErrRotating)
	}
	return false
}

func (c *Cluster) changeHere(ctx context.Context, r *clusterv1.ChangeIdentityRequest) (uint64, error) {
	switch r.Action {
	case RenewCertificates:
		return c.changeIdentity(ctx, func(id *identity.Identity) (*identity.Identity, error) { return id.Renewed(), nil })
	case RotateCA:
		return c.changeIdentity(ctx, (*identity.Identity).WithNextCA)
	case RotateGossipKey:
		return c.changeIdentity(ctx, (*identity.Identity).WithNextGossipKey)
	case RotateSecretKey:
		var wrapped *identity.WrappedKey
		if k := c.keyring.Load(); k != nil {
			var err error
			if wrapped, err = (*k).Wrap(ctx); err != nil {
				return 0, fmt.Errorf("create a key of Secrets: %w", err)
			}
		}
		return c.changeIdentity(ctx, func(id *identity.Identity) (*identity.Identity, error) { return id.WithNextSecretKey(wrapped) })
	case RotateToOwnKey:
		return c.changeIdentity(ctx, func(id *identity.Identity) (*identity.Identity, error) { return id.WithNextSecretKey(nil) })
	case RotateTokenKey:
		return c.changeIdentity(ctx, (*identity.Identity).WithNextTokenKey)
	case FinishTokenKey:
		return c.changeIdentity(ctx, (*identity.Identity).WithoutPreviousTokenKey)
	case FinishCA:
		return c.changeIdentity(ctx, func(id *identity.Identity) (*identity.Identity, error) {
			if stuck := c.notMoved(ctx, id); len(stuck) > 0 && !r.Force && id.PreviousCA != nil {
				return nil, fmt.Errorf("%w: %s; --force finishes without these workers, which must then join again with a token", identity.ErrNotMoved, strings.Join(stuck, ", "))
			}
			return id.WithoutPreviousCA()
		})
	case revokeWorker:
		return c.identity.Now().Generation, c.RevokeWorker(ctx, r.Worker)
	}
	return 0, status.Errorf(codes.InvalidArgument, "unknown change %v", r.Action)
}

// certsService serves other masters.
type certsService struct {
	clusterv1.UnimplementedCertsServiceServer
	c *Cluster
}

func (s certsService) Own(context.Context, *clusterv1.OwnCertsRequest) (*clusterv1.OwnCertsResponse, error) {
	own, err := s.c.ownCertificates()
	if err != nil {
		return nil, errclass.ToStatus(err)
	}
	data, err := json.Marshal(own)
	return &clusterv1.OwnCertsResponse{Json: data}, errclass.ToStatus(err)
}

func (s certsService) Change(ctx context.Context, r *clusterv1.ChangeIdentityRequest) (*clusterv1.ChangeIdentityResponse, error) {
	generation, err := s.c.change(ctx, r)
	return &clusterv1.ChangeIdentityResponse{Generation: generation}, rotationStatus(err)
}

// rotationCodes are the gRPC codes of the errors of rotations.
var rotationCodes = map[codes.Code]error{
	codes.FailedPrecondition: identity.ErrNotMoved, codes.AlreadyExists: identity.ErrRotating, codes.NotFound: identity.ErrNotRotated,
}

func rotationStatus(err error) error {
	for code, class := range rotationCodes {
		if errors.Is(err, class) {
			return status.Error(code, err.Error())
		}
	}
	return errclass.ToStatus(err)
}

func rotationError(err error) error {
	if class, ok := rotationCodes[status.Code(err)]; ok && err != nil {
		return &errclass.Remote{Class: class, Text: status.Convert(err).Message()}
	}
	return err
}
