package sealed

import (
	"testing"

	"github.com/kontiki/kontiki/internal/kv"
)

func TestKeysOfValues(t *testing.T) {
	for value, want := range map[string]string{
		Prefix + "key-1:cipher:text": "key-1", Prefix + ":x": "", Prefix + "unfinished": "-", "k8s\x00plain": "-", "": "-",
	} {
		name, ok := Key([]byte(value))
		if ok != (want != "-") || ok && string(name) != want {
			t.Errorf("%q: %q, %v", value, name, ok)
		}
		op, guarded := Guard([]byte(value))
		if guarded != ok || ok && (op.Key != RetiredPrefix+want || !op.Check || op.Cond != kv.Absent) {
			t.Errorf("%q is guarded by %+v, %v", value, op, guarded)
		}
	}
}
