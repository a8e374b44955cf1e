// Package cluster makes masters one cluster: consensus, membership, and the ways in.
//
// # What it is for
//
// A master holds a replica of the state (package fsm). This package keeps the replicas equal, tells the rest of the
// process who leads, lets hosts join, and knows which hosts are there. It knows nothing of Kubernetes. A caller opens a
// Cluster, registers services for workers and duties for the leader, and runs it; then it proposes commands, reads views
// and watches, on any master alike.
//
// # One port
//
// Raft, the masters' gRPC, the workers' gRPC and joining share one TCP port and are told apart by ALPN (package mtls). All but
// joining need a client certificate under the cluster's CA whose subject names the role: master or worker. Clients check the
// server's role and not its host name, so addresses may change. Handshakes run outside Accept under a deadline; what
// is not TLS is answered or closed, and logged at a bounded rate. Live connections are tracked both ways (mtls.Stream),
// because raft's transport has no authentication and does not close them.
//
// # Identity, tokens, joining
//
// The first master makes an Identity: CA, gossip key, keys that seal Secrets, the key that signs service account tokens.
// Every master holds all of it, in a file of mode 0600; a worker holds a certificate and the gossip key. A join token names
// the CA's hash, a role, an id and a secret. The host checks the CA before it sends the token; the cluster stores only the
// secret's hash, under /kontiki/tokens/, so tokens are revoked by deleting a key and work on every master.
//
// A master joins in two steps, so that an empty disk never votes for what a lost disk once acknowledged. With its token
// it fetches the identity, and on that occasion the leader removes a dead member of its name (a living one is an error).
// Then it runs raft, asks to be added, follows without a vote until it has applied what was committed when it asked, and
// gets its vote. What it is is in member.json: once that says complete, the master never joins again, it just starts.
// A worker's key never leaves its host: the token buys two certificates for it, a client's (system:node:NAME) and a
// serving one. Whoever holds a worker token can become any worker; whoever holds a master token becomes the cluster.
//
// # Changes of the identity
//
// An Identity has a generation, and changes by a new one (package identity makes it, purely). The leader proposes it as one key
// of the store, sealed under the secret key of the generation before; every master that applies it opens it,
// saves it, and then uses it (trust.go). identity.Live is what everybody else reads: nobody keeps an
// Identity, a pool or a certificate beyond one use. Three rules keep every host in: a change begins only when every master
// has the present generation; what is new is trusted by all before it is used, which the leader's duty advances when all
// masters and all connected workers have said so (certstatus.go); and a new CA comes with its cross-signed certificate, so
// that who trusts the old one alone is served until the old one is dropped. Workers follow a master's TrustService
// (workers.go, package worker).
//
// # Consensus
//
// Package consensus replicates the state, and has what a write and a read pass through, the leader's duties, and what a full, stalled or
// failed disk leads to. A Cluster puts around it what listens, joins, gossips and changes the members.
//
// # Members that come and go
//
// A master that is dead for long is removed (deadmasters.go), if MinMasters vote without it, and comes back by itself; one that
// somebody removed stays out, because the state says so. A member whose program is too old for the cluster's feature level
// (feature.go) does not run and does not join.
//
// # Backup, restore, recovery
//
// Package backup takes backups of the state and brings them back. A recovery (recover.go) makes a survivor the only member, by hand. Masters
// that a recovery left out cannot speak raft to those that went on (raftName) and stop when gossip shows them.
//
// # What raft leaves undone
//
// Package raftfix works around defects of hashicorp/raft, and has a table of them. Most were found by simulation in virtual time, with faults by
// seed and histories that are checked. It comes at two sizes: whole masters over a network in memory (simulation_test.go), for which
// mtls.Network is the seam; and replicas alone, by the thousand (consensus/schedule_test.go).
//
// # Gossip
//
// Masters and workers gossip, encrypted (package gossip). It tells who is alive, suspect, dead or has left; it is a hint, and
// whoever acts on it confirms it first. memberlist calls back under its own lock, so its events only ever go into a map and
// into queues that never block.
//
// # Trade-offs
//
// A log in raft-boltdb rather than raft-wal: it can tell a torn commit from a damaged one. Every master holds
// the CA's key, so that any of them admits hosts while others are down; the price is that a stolen master's disk is the
// cluster. A removed master keeps a valid certificate until the CA is rotated.
package cluster
