package consensus

import (
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/kontiki/kontiki/internal/collectors"
	"github.com/kontiki/kontiki/internal/histogram"
	"github.com/kontiki/kontiki/internal/kv"
)

// metrics are counted on the paths of proposals, each by an atomic addition to a series that was looked up beforehand.
type metrics struct {
	proposals prometheus.Histogram
	results   [proposalResults]prometheus.Counter
	byResult  *prometheus.CounterVec
	retries   prometheus.Counter
	apply     prometheus.Histogram
	applied   prometheus.Counter
	// elections are those in which this master was a candidate, changes how often it learned of a new leader.
	elections, changes atomic.Uint64
}

// The results of proposals.
const (
	proposalApplied = iota
	proposalConflict
	proposalUnknown
	proposalNoLeader
	proposalRefused
	proposalResults
)

var proposalNames = [proposalResults]string{"applied", "conflict", "unknown", "no_leader", "refused"}

func newMetrics() *metrics {
	m := &metrics{
		proposals: histogram.New("kontiki_raft_proposal_duration_seconds", "Time from when this master proposed a command until its own state showed it, or it failed.",
			[]float64{0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1, 2, 5, 10, 30}),
		byResult: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kontiki_raft_proposals_total",
			Help: "Commands that this master proposed, by result: 'applied', 'conflict' (a condition did not hold), 'unknown' (it may be applied later), 'no_leader', 'refused' (too large, not supported, or the disks are full)."}, []string{"result"}),
		retries: prometheus.NewCounter(prometheus.CounterOpts{Name: "kontiki_raft_proposal_retries_total", Help: "Attempts after the first to have a command replicated, as when the leader was lost."}),
		apply: histogram.New("kontiki_raft_apply_duration_seconds", "Time to apply a batch of committed commands to the state of this master.",
			[]float64{0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5}),
		applied: prometheus.NewCounter(prometheus.CounterOpts{Name: "kontiki_raft_applied_commands_total", Help: "Committed commands that were applied to the state of this master."}),
	}
	for i, name := range proposalNames {
		m.results[i] = m.byResult.WithLabelValues(name)
	}
	return m
}

// proposed counts a proposal that has ended.
func (m *metrics) proposed(result kv.Result, err error, took time.Duration) {
	m.proposals.Observe(took.Seconds())
	i := proposalApplied
	switch {
	case errors.Is(err, kv.ErrOutcomeUnknown):
		i = proposalUnknown
	case errors.Is(err, kv.ErrNoLeader):
		i = proposalNoLeader
	case err != nil:
		i = proposalRefused
	case result.Failed != nil:
		i = proposalConflict
	}
	m.results[i].Inc()
}

// batch counts an applied batch.
func (m *metrics) batch(commands int, took time.Duration) {
	if m != nil {
		m.apply.Observe(took.Seconds())
		m.applied.Add(float64(commands))
	}
}

// observed counts what raft reported.
func (m *metrics) observed(o raft.Observation) {
	switch data := o.Data.(type) {
	case raft.LeaderObservation:
		if data.LeaderID != "" {
			m.changes.Add(1)
		}
	case raft.RaftState:
		if data == raft.Candidate {
			m.elections.Add(1)
		}
	}
}

// Collector returns a collector of the metrics of consensus and the state. The replica must have been started.
func (n *Replica) Collector() prometheus.Collector {
	m := n.metrics
	return collectors.Group{m.proposals, m.byResult, m.retries, m.apply, m.applied, replicaMetrics{n}}
}

// replicaMetrics collects what is so at present.
type replicaMetrics struct{ n *Replica }

func metric(name, help string, kind prometheus.ValueType) *replicaMetric {
	return &replicaMetric{prometheus.NewDesc("kontiki_"+name, help, nil, nil), kind}
}

type replicaMetric struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
}

var (
	raftLeader      = metric("raft_is_leader", "1 if this master leads.", prometheus.GaugeValue)
	raftTerm        = metric("raft_term", "The term of this master.", prometheus.GaugeValue)
	raftCommit      = metric("raft_commit_index", "The index of the last log entry that this master knows to be committed.", prometheus.GaugeValue)
	raftApplied     = metric("raft_applied_index", "The index of the last log entry that this master has applied.", prometheus.GaugeValue)
	raftLast        = metric("raft_last_log_index", "The index of the last entry of this master's log.", prometheus.GaugeValue)
	raftElections   = metric("raft_elections_total", "Elections in which this master was a candidate.", prometheus.CounterValue)
	raftChanges     = metric("raft_leader_changes_total", "How often this master learned of a leader, as after an election.", prometheus.CounterValue)
	raftPeers       = metric("raft_peers", "Masters in this master's latest configuration, itself included.", prometheus.GaugeValue)
	raftContact     = metric("raft_leader_silence_seconds", "How long a follower has not heard from the leader; 0 on the leader.", prometheus.GaugeValue)
	raftLogBytes    = metric("raft_log_size_bytes", "The size of the file with the log and the votes.", prometheus.GaugeValue)
	raftSnapshot    = metric("raft_snapshot_size_bytes", "The size of the newest snapshot on the disk of this master; 0 if there is none.", prometheus.GaugeValue)
	raftSnapshotAt  = metric("raft_snapshot_index", "The index up to which the newest snapshot has everything; 0 if there is none.", prometheus.GaugeValue)
	storeKeys       = metric("store_keys", "Keys in the state.", prometheus.GaugeValue)
	storeRevision   = metric("store_revision", "The revision of the state.", prometheus.GaugeValue)
	storeEvents     = metric("store_history_events", "Changes that watches can begin with.", prometheus.GaugeValue)
	storeEventBytes = metric("store_history_bytes", "The size of these changes.", prometheus.GaugeValue)
	storeWatchers   = metric("store_watchers", "Open watches of the state.", prometheus.GaugeValue)
	storeForms      = metric("store_cached_forms", "Decoded and encoded forms of objects that are kept for readers.", prometheus.GaugeValue)
	storeFormBytes  = metric("store_cached_form_bytes", "The size of these forms.", prometheus.GaugeValue)
	storeResults    = metric("store_remembered_results", "Results of commands that are remembered, so that none is applied twice.", prometheus.GaugeValue)
)

var ofReplica = []*replicaMetric{raftLeader, raftTerm, raftCommit, raftApplied, raftLast, raftElections, raftChanges, raftPeers, raftContact, raftLogBytes, raftSnapshot, raftSnapshotAt,
	storeKeys, storeRevision, storeEvents, storeEventBytes, storeWatchers, storeForms, storeFormBytes, storeResults}

// Describe implements prometheus.Collector.
func (replicaMetrics) Describe(to chan<- *prometheus.Desc) {
	for _, m := range ofReplica {
		to <- m.desc
	}
}

// Collect implements prometheus.Collector.
func (c replicaMetrics) Collect(to chan<- prometheus.Metric) {
	r, store := c.n.node.raft, c.n.store.Stats()
	send := func(m *replicaMetric, value float64) {
		to <- prometheus.MustNewConstMetric(m.desc, m.kind, value)
	}
	leads := 0.0
	if r.State() == raft.Leader {
		leads = 1
	}
	send(raftLeader, leads)
	send(raftTerm, float64(r.CurrentTerm()))
	send(raftCommit, float64(r.CommitIndex()))
	send(raftApplied, float64(store.AppliedIndex))
	send(raftLast, float64(r.LastIndex()))
	send(raftElections, float64(c.n.metrics.elections.Load()))
	send(raftChanges, float64(c.n.metrics.changes.Load()))
	send(raftPeers, float64(len(c.n.Servers())))
	if contact := r.LastContact(); leads == 1 {
		send(raftContact, 0)
	} else if !contact.IsZero() {
		send(raftContact, time.Since(contact).Seconds())
	}
	if info, err := os.Stat(filepath.Join(c.n.disk.store.Health().Dir, "raft.db")); err == nil {
		send(raftLogBytes, float64(info.Size()))
	}
	size, at := 0.0, 0.0
	if list, err := c.n.disk.store.Snapshots().List(); err == nil && len(list) > 0 {
		size, at = float64(list[0].Size), float64(list[0].Index)
	}
	send(raftSnapshot, size)
	send(raftSnapshotAt, at)
	send(storeKeys, float64(store.Objects))
	send(storeRevision, float64(store.Revision))
	send(storeEvents, float64(store.HistoryEvents))
	send(storeEventBytes, float64(store.HistoryBytes))
	send(storeWatchers, float64(store.Watchers))
	send(storeForms, float64(store.Forms))
	send(storeFormBytes, float64(store.FormBytes))
	send(storeResults, float64(store.Remembered))
}
