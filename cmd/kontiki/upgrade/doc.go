// Package upgrade replaces the program of a cluster's hosts, one host after another: masters first, the leader last of them, then workers.
//
// Before each host the cluster must be well: no problem of its masters, every worker ready, and another master that may be missing. A
// host's program is replaced by a function that the caller gives (by ssh, or by a command of the administrator's own). Then the host must come back:
// with the new version, a vote, and all of the log that was committed when it was back, ready as a worker, and with its pods as before, none of
// them restarted. If it does not within some minutes, the upgrade stops there, and nothing else is touched.
//
// Nothing is remembered between two runs: a host that runs the version counts as done, whoever upgraded it. So the same command again goes
// on where the last one stopped.
package upgrade
