// Package server is `kontiki server`, a master: its flags, and how its parts are put together.
//
//   - the command and the running master: server.go, master.go, metrics.go, clientmetrics.go, profile.go, journal.go, dashboard.go
//   - the API: api.go, authentication.go, kms.go (flags), extension.go and extensions.go (extension API servers and webhooks), loopback.go
//     (a client of this master's own API)
//   - identity.go (certificates and keys that change while it runs), level.go (feature levels), kubeconfig.go
//   - its leader's duties: duties.go, controllers.go (the table of controllers), dutyflag.go, schedulerconfig.go, autoscale.go, advice.go,
//     hints.go (what gossip and sessions tell of workers)
//
// The administration paths are in package clusterapi below it; the commands that ask them are in package admin.
package server
