// Package sealed has what those who encrypt values and those who manage the keys must agree on: how a value names its key, and the
// mark of a key that encrypts no more.
package sealed

import (
	"bytes"

	"github.com/kontiki/kontiki/internal/kv"
)

// Prefix begins every encrypted value. The name of its key and a colon follow.
const Prefix = "kontiki:seal:v1:"

// RetiredPrefix begins the keys of the store that mark retired keys.
const RetiredPrefix = kv.OwnPrefix + "identity/retired/"

// DroppedPrefix begins the keys of the store that mark keys which the cluster no longer has.
const DroppedPrefix = kv.OwnPrefix + "identity/dropped/"

// Key returns the name of the key with which a value is encrypted; ok is false if it is not encrypted.
func Key(value []byte) (name []byte, ok bool) {
	rest, ok := bytes.CutPrefix(value, []byte(Prefix))
	if !ok {
		return nil, false
	}
	name, _, ok = bytes.Cut(rest, []byte(":"))
	return name, ok
}

// Guard returns the operation that makes a command fail if it puts a value that is encrypted with a retired key. ok is false for a value
// that is not encrypted. A write that was prepared before its key was retired, by a master that was slow, is thereby prepared again.
func Guard(value []byte) (op kv.Op, ok bool) {
	name, ok := Key(value)
	return kv.Op{Key: RetiredPrefix + string(name), Check: true, Cond: kv.Absent}, ok
}

// Count counts the values of a view by the names of the keys that encrypt them.
func Count(view kv.View) map[string]int {
	counts := map[string]int{}
	view.Range("", "", func(v *kv.Version) bool {
		if name, ok := Key(v.Value); ok {
			counts[string(name)]++
		}
		return true
	})
	return counts
}
