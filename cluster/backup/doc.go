// Package backup takes backups of the cluster's state and brings them back.
//
// A backup is a head and a snapshot of the state as of one revision (format.go). Any master takes one, on request or on a schedule
// (schedule.go), without holding anybody up.
//
// It comes back through the log (restore.go): it is checked whole, then staged in pieces under keys of its own, then brought back by one
// command, so that no crash leaves half of it. Before that command the leader's duties that act on objects stop, because a restore brings
// objects back under the UIDs that they had. A backup that a master has no memory or no disk for is refused before anything is committed
// (memory.go): a command that ends a master when it is applied would end it at each start.
//
// Each time the state does not simply follow from what was before (a start, a restore, a recovery) a new epoch begins (epoch.go), and
// revisions jump beyond what may have been handed out where that is not known.
package backup
