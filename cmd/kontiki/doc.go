// Command kontiki is the Kontiki binary: master, worker, development cluster, and the tools to administer them.
//
// # Where what is
//
//   - the command line: main.go, config.go (flags from a file), version.go
//   - a master: server.go (its flags, and how its parts are put together), api.go, authentication.go, kms.go (the flags of the API),
//     identity.go (certificates and keys that change while it runs), level.go (feature levels), kubeconfig.go
//   - its leader's duties: duties.go, controllers.go (the table of controllers), dutyflag.go, schedulerconfig.go, hints.go (what gossip and
//     sessions tell of workers)
//   - the administration paths that it serves: clusterapi.go, certs.go, secrets.go, profile.go, and by gRPC rpc.go. The commands that ask
//     them are in package admin
//   - a worker: agent.go, dial.go
//   - clusters on one machine: dev.go (package dev), hollow.go (package hollow)
package main
