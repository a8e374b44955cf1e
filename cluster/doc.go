// Package cluster runs a master: its membership, the admission of hosts, and what connects it to the other hosts.
//
// # What it is for
//
// Every master holds a replica of the state (package fsm), which package consensus keeps equal on all of them. This package connects masters,
// admits hosts, and tracks which hosts are alive. It does not depend on Kubernetes. A caller opens a Cluster, registers services for
// workers and duties for the leader, and calls Run; then it can propose commands, read views and watch on any master.
//
// # Where what is
//
//   - a master's life: cluster.go (open, run, close), settle.go (what it is at its start, and whether it still is a member), opendisk.go,
//     readmit.go, recover.go (damaged and surviving disks), member.go (what it stores about itself), config.go, settings.go, feature.go
//   - who is a member: members.go, deadmasters.go, join.go; initial.go and tokens.go (join tokens)
//   - who is admitted: service.go (the services for masters, joining hosts and workers), workercerts.go, apihosts.go
//   - who is trusted: trust.go (changes of the identity, revocations), certstatus.go (who has followed), workers.go, gossipmode.go
//   - what others see: state.go, masters.go, status.go, metrics.go, admin.go
//
// # One port
//
// Raft, the masters' gRPC, the workers' gRPC and joining share one TCP port, and ALPN selects the protocol (package mtls). All but joining
// require a client certificate issued by the cluster's CA, whose subject names the role: master or worker. Clients check the server's role
// and not its host name, so addresses may change. Handshakes have a deadline and do not hold up Accept; connections without TLS are closed,
// and logged at a limited rate. Open connections are tracked in both directions (mtls.Stream), because raft's transport does not
// authenticate peers and does not close connections.
//
// # Identity, tokens, joining
//
// The first master creates the identity: the CA, the gossip key, keys that encrypt Secrets, the key that signs service account tokens. Every
// master has all of it, in a file of mode 0600; a worker has certificates and the gossip key. A join token consists of the CA's hash, a
// role, an id and a secret. The host checks the CA before it sends the token; the cluster stores only the secret's hash, under
// /kontiki/tokens/, so a token works on every master and is revoked by deleting its key.
//
// A master joins in two steps, so that a master with an empty disk never has the vote of one that acknowledged writes. First it fetches the
// identity with its token, and the leader removes a dead member of its name (a living one is an error). Then it starts raft, asks to be
// added, follows without a vote until it has applied everything that was committed when it asked, and gets its vote. member.json stores
// this: once it says complete, the master only starts and does not join again. A worker's private key never leaves its host: with the token
// it gets two certificates, one as a client (system:node:NAME) and one as a server. The holder of a worker token can become any worker;
// the holder of a master token gets the whole identity.
//
// # Changes of the identity
//
// An identity has a generation, and a change creates the next one (package identity). The leader proposes it as the value of one key,
// encrypted with the secret key of the generation before; every master that applies it decrypts it, saves it, and then uses it (trust.go).
// Other code reads identity.Live for each use, and keeps no identity, certificate pool or certificate. Three rules prevent that a host is
// locked out: a change begins only if every master has the present generation; a new CA or key is trusted everywhere before it is used, and
// the leader moves to the next step once all masters and all connected workers have reported the present one (certstatus.go); and a new CA
// has a cross-signed certificate, so that hosts that trust only the old CA accept its certificates until the old CA is dropped. Workers
// receive changes from a master's TrustService (workers.go, package worker).
//
// # Consensus
//
// Package consensus replicates the state: it has the paths of writes and reads, the leader's duties, and the handling of full, stalled and
// failed disks. A Cluster adds the port, joining, gossip and changes of the members.
//
// # Members that come and go
//
// The leader removes a master that has been dead for long (deadmasters.go), if MinMasters voters remain; such a master rejoins by itself when
// it is back. A master that a user removed does not: the state notes it. A master whose program is too old for the cluster's feature level
// (feature.go) is not admitted and does not run.
//
// # Backup, restore, recovery
//
// Package backup takes backups of the state and restores them. A recovery (recover.go), which an administrator starts, makes a surviving
// master the only member. The masters that it excludes cannot connect their raft to the recovered one (mtls.RaftName), and stop when gossip
// shows it to them.
//
// # Defects of raft
//
// Package raftfix works around defects of hashicorp/raft, and has a table of them. Simulations in virtual time found most of them, with
// random faults and checked histories. There are two: whole masters over a network in memory (simulation_test.go, through mtls.Network),
// and thousands of runs of replicas alone (consensus/schedule_test.go).
//
// # Gossip
//
// Masters and workers exchange encrypted gossip (package gossip), which says which hosts are alive, suspect, dead or have left. It is a hint,
// and is confirmed before anything acts on it. memberlist calls back while it holds its lock, so its events only go into a map and into
// queues that never block.
//
// # Trade-offs
//
// The log is in raft-boltdb rather than raft-wal, because bbolt can tell a torn commit from a damaged one. Every master has the CA's key, so
// that any of them can admit hosts while others are down; in return a stolen disk of a master compromises the cluster. A removed master's
// certificate stays valid until the CA is rotated.
package cluster
