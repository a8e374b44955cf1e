// Package backup takes and restores backups of the cluster's state.
//
// A backup is a header and a snapshot of the state at one revision (format.go). Any master takes one, on request or on a schedule
// (schedule.go), without blocking writes.
//
// A backup is restored through the log (restore.go): it is checked completely, then staged in pieces under separate keys, then
// restored by one command, so that a crash never leaves half of it. Before that command the leader's duties that act on objects
// stop, because a restore brings objects back under their old UIDs. A backup for which a master has too little memory or disk space
// is refused before anything is committed (memory.go): a command that crashes a master when it is applied would crash it again at
// each start.
//
// Each time the state is not simply the continuation of the previous one (after a start, a restore, a recovery), a new epoch begins
// (epoch.go). If it is not known which revisions have been assigned, revisions jump beyond them.
package backup
