// Package dev runs a whole cluster on one machine: every host of it is a network namespace, and what Kontiki runs on a
// host is an ordinary process in that namespace, started with the same command that a real host would use.
//
//	127.0.0.1:6443 -> forwarder -> | switch namespace: bridge | -- veth -- | master-1 .. master-3 | worker-1 .. worker-2 |
//
// The bridge lives in a namespace of its own, so nothing of the machine's network is touched: the forwarder listens
// outside and dials from inside. The workers share one containerd, with a containerd namespace each.
//
// A supervisor process owns all of it. It keeps what it made in <dir>/dev.json before it makes it, so that `kontiki dev
// stop` can clean up after a supervisor that was killed. Commands reach it over the unix socket <dir>/dev.sock.
package dev
