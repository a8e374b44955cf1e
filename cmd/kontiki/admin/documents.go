package admin

// The paths, on every master's API port. docs/authorization.md lists who may use which.
const (
	ClusterPath  = "/kontiki/v1/cluster"
	SnapshotPath = "/kontiki/v1/snapshot"
	CertsPath    = "/kontiki/v1/certs"
	SecretsPath  = "/kontiki/v1/secrets"
)

// FlagsAnswer has the flags of the master that answers, by name, also those that have their defaults. Join tokens are left out.
type FlagsAnswer struct {
	Master string            `json:"master"`
	Flags  map[string]string `json:"flags"`
}

// CertsChange is the body of a POST to CertsPath.
type CertsChange struct {
	Action string `json:"action"`
	Worker string `json:"worker,omitempty"`
	Force  bool   `json:"force,omitempty"`
}

// CertsChanged is the response.
type CertsChanged struct {
	Generation uint64 `json:"generation"`
}

// SecretsChange is the body of a POST to SecretsPath.
type SecretsChange struct {
	Action string `json:"action"` // rotate, rotate-without-kms or finish
}

// RevokeAction is the action that revokes a worker's certificates.
const RevokeAction = "revoke-worker"

// TransferRequest and TransferAnswer are the bodies of a leadership transfer.
type TransferRequest struct {
	To string `json:"to"` // empty means any
}
type TransferAnswer struct {
	Leader string `json:"leader"`
}
