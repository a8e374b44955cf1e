package consensus

import (
	"encoding/json"

	"github.com/kontiki/kontiki/internal/kv"
)

// levelKey is the key of the feature level, which says which replicated features all masters support, so that commands of that
// version may be in the log.
const levelKey = kv.OwnPrefix + "feature-level"

type storedLevel struct {
	Level int `json:"level"`
}

// LevelOf returns the feature level in a view, 1 if there is none, and the revision of its key, 0 if there is none.
func LevelOf(v kv.View) (level int, revision uint64) {
	version, ok := v.Get(levelKey)
	if !ok {
		return 1, 0
	}
	var stored storedLevel
	if err := json.Unmarshal(version.Value, &stored); err != nil || stored.Level < 1 {
		return 1, version.ModRevision
	}
	return stored.Level, version.ModRevision
}

// SetLevel returns the operation that sets the feature level, if its key is still at the revision that LevelOf returned.
func SetLevel(level int, revision uint64) kv.Op {
	value, _ := json.Marshal(storedLevel{level}) // a struct of an int can always be encoded
	return kv.Op{Key: levelKey, Value: value, Cond: kv.AtOrAbsent(revision), Revision: revision}
}
