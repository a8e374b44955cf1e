// Package journal keeps a journal of what happened in the cluster: objects that were created, changed and deleted, with which fields and by
// whom, and events. Each master keeps its own on its own disk. Nothing of it goes through Raft, and no write waits for it.
//
// # What is recorded
//
// The journal reads the changes of the replicated store, as a watcher does. Of a change it keeps the paths of the fields, the field manager
// that the object's managed fields name, and the time that they name; of a deletion the user, where a copy for `kontiki undelete` says
// who it was. It keeps no value of any field, so the content of a Secret never gets in, and neither does what was in an environment variable.
// An event is kept with its reason and its text. Not recorded are leases, and repeated changes of the same status fields within RepeatWithin.
//
// # Restarts and gaps
//
// After a restart the journal continues behind the last change that it has, from what the master replays of its log. If the history does not reach
// back so far, because the master was away for long and received a snapshot instead, or fell behind, the journal has an entry that says from when to when changes are missing.
// It has such an entry too for changes that came faster than it records them.
//
// # Disk
//
// The journal is a folder of files of lines, each line an Entry in JSON; a file is named by its number and is only appended to. When all files
// together exceed the limit of bytes, the oldest is removed; so is one whose newest entry is too old. A line that cannot be read, as the last
// one after a power loss, is skipped. The files are not synced: what a power loss takes is read again from the replayed log.
package journal
