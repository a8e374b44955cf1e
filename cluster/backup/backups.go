package backup

import (
	"context"
	"log/slog"
	"time"

	"github.com/kontiki/kontiki/cluster/storage"
	"github.com/kontiki/kontiki/fsm"
	"github.com/kontiki/kontiki/internal/kv"
	clusterv1 "github.com/kontiki/kontiki/proto/kontiki/cluster/v1"
)

// State is the cluster's replicated state; consensus.Replica implements it.
type State interface {
	kv.Reader
	Consistent(ctx context.Context) (kv.View, error)
	Propose(ctx context.Context, cmd *kv.Command) (kv.Result, error)
	Snapshot() *fsm.Snapshot
	// AwaitState waits until a view fulfils a condition that depends only on keys with the prefix.
	AwaitState(ctx context.Context, prefix string, holds func(kv.View) bool) error
	// StopDuties stops the leader's duties that act on objects, for the restore with this id. It returns the operations that let
	// them continue, to be added to the restore's command. ResumeDuties lets them continue after a failed restore.
	StopDuties(ctx context.Context, id string) ([]kv.Op, error)
	ResumeDuties(id string)
	DiskHealth() storage.Health
	// Life returns a context that ends when this master stops.
	Life() context.Context
}

// Options are the parameters of Backups. All fields but Schedule are required.
type Options struct {
	State State
	// Name is this master's, Version its program's, ClusterID the cluster's: a backup contains them.
	Name, Version, ClusterID string
	// Dir is the directory in which a backup to be restored is kept while it is checked: on the disk of this master's data.
	Dir string
	// DiskLow is how many bytes of a master's disk must remain free in addition to what a restore needs.
	DiskLow int64
	// SecretKeys returns the keys that encrypt Secrets, by name; IdentityFile is the name of the file that contains them.
	SecretKeys   func() map[string][]byte
	IdentityFile string
	// CleanUp limits the time for cleaning up after a failed restore.
	CleanUp  time.Duration
	Schedule Schedule
	// Leading says whether this master leads the cluster.
	Leading func() bool
	// RequireLevel returns an error for what the cluster's feature level does not allow yet.
	RequireLevel func(ctx context.Context, level int, what string) error
	// OtherMasters requests the status of the other masters and returns that of those that respond.
	OtherMasters func(ctx context.Context) []*clusterv1.NodeStatusResponse
	// Recovered returns the lineage that a recovery of this master chose and that no epoch has yet, or ""; EpochBegun records that
	// an epoch has it.
	Recovered  func() string
	EpochBegun func() error
	Log        *slog.Logger
}

// Backups takes and restores backups of the cluster's state. Its methods are safe for concurrent use.
type Backups struct {
	o     Options
	state State
	log   *slog.Logger
}

// New returns the backups of a cluster.
func New(o Options) *Backups { return &Backups{o: o, state: o.State, log: o.Log} }
