package agent

import (
	"bytes"
	"maps"
	"sync"
	"weak"

	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

// Decoded has the objects that all nodes get, for agents that share a process, as simulated nodes do: each object is decoded and kept once
// for all of them. Its zero value is empty and ready; it is safe for concurrent use.
type Decoded struct {
	mu      sync.Mutex
	entries map[key]weak.Pointer[entry] // the latest of each object
	swept   int                         // the number of entries after those of deleted objects were removed last
}

// leastSwept is the number of entries from which on those of deleted objects are looked for.
const leastSwept = 1024

// find returns the entry of an object that is the same, byte for byte; nil if there is none.
func (d *Decoded) find(k key, o *nodev1.Object) *entry {
	d.mu.Lock()
	defer d.mu.Unlock()
	p, ok := d.entries[k]
	if !ok {
		return nil
	}
	e := p.Value()
	if e == nil {
		delete(d.entries, k)
		return nil
	}
	if e.revision != o.Revision || !bytes.Equal(e.value, o.Value) {
		return nil
	}
	return e
}

func (d *Decoded) keep(e *entry) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.entries == nil {
		d.entries = map[key]weak.Pointer[entry]{}
	}
	d.entries[e.key] = weak.Make(e)
	if len(d.entries) > 2*max(d.swept, leastSwept) {
		maps.DeleteFunc(d.entries, func(_ key, p weak.Pointer[entry]) bool { return p.Value() == nil })
		d.swept = len(d.entries)
	}
}
