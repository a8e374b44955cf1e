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

// State is the cluster's replicated state, as consensus.Replica has it.
type State interface {
	kv.Reader
	Consistent(ctx context.Context) (kv.View, error)
	Propose(ctx context.Context, cmd *kv.Command) (kv.Result, error)
	Snapshot() *fsm.Snapshot
	// AwaitState waits until a view fulfils a condition, which looks at keys with the prefix only.
	AwaitState(ctx context.Context, prefix string, holds func(kv.View) bool) error
	// StopDuties stops the leader's duties that act on objects, for the restore of that id, and returns the operations that let them go on,
	// which belong into the restore's command. ResumeDuties lets them go on after a restore that failed.
	StopDuties(ctx context.Context, id string) ([]kv.Op, error)
	ResumeDuties(id string)
	DiskHealth() storage.Health
	// Life ends when this master stops.
	Life() context.Context
}

// Options say whose backups they are. All fields but Schedule are required.
type Options struct {
	State State
	// Name is this master's, Version its program's, ClusterID the cluster's: a backup says them.
	Name, Version, ClusterID string
	// Dir is where a backup that comes back is kept while it is checked: beside the data of this master.
	Dir string
	// DiskLow is how many bytes a master's disk must have free, beside what a restore needs.
	DiskLow int64
	// SecretKeys are the keys that Secrets are sealed with, by name; IdentityFile is the name of the file that has them.
	SecretKeys   func() map[string][]byte
	IdentityFile string
	// CleanUp bounds what is done after a restore that failed.
	CleanUp  time.Duration
	Schedule Schedule
	// RequireLevel refuses what the cluster's feature level does not allow yet.
	RequireLevel func(ctx context.Context, level int, what string) error
	// OtherMasters asks the other masters for their status and returns those that respond.
	OtherMasters func(ctx context.Context) []*clusterv1.NodeStatusResponse
	// Recovered is the lineage that a recovery of this master began and no epoch has begun with yet, empty for none; EpochBegun notes that
	// one has.
	Recovered  func() string
	EpochBegun func() error
	Log        *slog.Logger
}

// Backups takes backups of the cluster's state and brings them back. Its methods are safe for concurrent use.
type Backups struct {
	o     Options
	state State
	log   *slog.Logger
}

// New returns the backups of a cluster.
func New(o Options) *Backups { return &Backups{o: o, state: o.State, log: o.Log} }
