package fsm

import (
	"bytes"
	"fmt"
	"io"
	"strings"

	"github.com/kontiki/kontiki/internal/kv"
)

// restore makes the state equal to a staged backup, except for the keys under r.Keep. It reads all of the backup before it changes
// anything: after an error (ErrBadSnapshot, ErrBadCommand) the state is unchanged.
func (t *edit) restore(r *kv.Restore) error {
	var ops []kv.Op
	if r.From != "" {
		var err error
		if ops, err = t.difference(r); err != nil {
			return fmt.Errorf("restore: %w", err)
		}
	}
	if r.Revision > t.revision {
		t.revision, t.jumped = r.Revision, true
	}
	t.execute(ops, 0) // the values are copies: none shares the entry's memory
	return nil
}

// difference returns the operations that turn the state into the backup's, in order of keys: deletions of keys that the backup
// lacks, including the staged backup itself, and puts of values that differ.
func (t *edit) difference(r *kv.Restore) ([]kv.Op, error) {
	var staged []io.Reader
	t.root.visit(r.From, kv.PrefixEnd(r.From), func(v *kv.Version) bool {
		staged = append(staged, bytes.NewReader(v.Value))
		return true
	})
	if len(staged) == 0 {
		return nil, fmt.Errorf("%w: no backup is staged under %q", ErrBadCommand, r.From)
	}
	var backup []kv.Op
	_, err := ReadSnapshot(io.MultiReader(staged...), func(v *kv.Version) error {
		if !strings.HasPrefix(v.Key, r.Keep) {
			backup = append(backup, kv.Op{Key: v.Key, Value: v.Value})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var ops []kv.Op
	at := 0
	t.root.visit("", "", func(v *kv.Version) bool {
		for at < len(backup) && backup[at].Key < v.Key {
			ops = append(ops, backup[at])
			at++
		}
		switch {
		case at < len(backup) && backup[at].Key == v.Key:
			if !bytes.Equal(backup[at].Value, v.Value) {
				ops = append(ops, backup[at])
			}
			at++
		case strings.HasPrefix(v.Key, r.From) || !strings.HasPrefix(v.Key, r.Keep):
			ops = append(ops, kv.Op{Key: v.Key, Delete: true})
		}
		return true
	})
	return append(ops, backup[at:]...), nil
}
