package fsm

import (
	"fmt"
	"io"

	"github.com/kontiki/kontiki/internal/kv"
)

// RewriteSnapshot copies a snapshot with another revision and applied index, both at least the old ones. It is for bringing back
// a backup: a cluster whose revisions go back would hand out the same numbers twice for different
// states, and a client that resumes from one would not notice. So raise the revision above any that the lost cluster can have handed
// out. Objects keep their revisions. It reads and writes a record at a time; after an error what was written is worthless.
func RewriteSnapshot(w io.Writer, r io.Reader, revision, appliedIndex uint64) (SnapshotInfo, error) {
	var e *snapshotWriter
	var info SnapshotInfo
	_, err := readSnapshot(r, snapshotVisitor{
		header: func(i SnapshotInfo) error {
			if revision < i.Revision || appliedIndex < i.AppliedIndex {
				return fmt.Errorf("it is at revision %d and index %d, which cannot go back to %d and %d", i.Revision, i.AppliedIndex, revision, appliedIndex)
			}
			info = i
			info.Revision, info.AppliedIndex = revision, appliedIndex
			e = newSnapshotWriter(w, info)
			return e.err
		},
		object:  func(v *kv.Version) error { return e.object(v) },
		command: func(o outcome) error { return e.command(&o) },
	})
	if err == nil {
		err = e.finish()
	}
	if err != nil {
		return info, fmt.Errorf("rewrite snapshot: %w", err)
	}
	return info, nil
}
