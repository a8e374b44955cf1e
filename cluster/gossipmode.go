package cluster

// Who takes part in gossip.
const (
	gossipAll         = "all"
	gossipMastersOnly = "masters"
)
