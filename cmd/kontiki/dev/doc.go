// Package dev runs a whole cluster on one machine: every host is a network namespace, and Kontiki's processes on a host are
// ordinary processes in that namespace, started with the same command as on a real host.
//
//	127.0.0.1:6443 -> forwarder -> | switch namespace: bridge | -- veth -- | master-1 .. master-3 | worker-1 .. worker-2 |
//
// The bridge is in a network namespace of its own, so the machine's network is not changed: the forwarder listens in the machine's
// namespace and dials from the bridge's. The workers share one containerd, with one containerd namespace each.
//
// A supervisor process owns all of it. It records in <dir>/dev.json what it is about to create, so that `kontiki dev stop` can
// clean up after a supervisor that was killed. Commands reach it through the unix socket <dir>/dev.sock.
package dev
