// Command kontiki is the Kontiki binary: master, worker, development cluster, and the tools to administer them.
//
// # Where what is
//
//   - a master: package server; a worker: package agent; what both do as processes: package process
//   - the commands for people: package admin, and a package for each large command
//   - clusters on one machine: dev.go (package dev), hollow.go (package hollow)
//   - the references that are generated: generate.go, generateroles.go, examples.go
package main
