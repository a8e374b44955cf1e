// Package failpoint names points of the program at which a test wants something to happen: mostly that the process dies there.
// A point that is not armed costs one atomic load.
package failpoint

import (
	"sync"
	"sync/atomic"
)

var (
	armed atomic.Int64
	mu    sync.Mutex
	acts  = map[string]func(){}
)

// Hit runs what is armed at the point, in the caller's goroutine.
func Hit(name string) {
	if armed.Load() == 0 {
		return
	}
	mu.Lock()
	act := acts[name]
	mu.Unlock()
	if act != nil {
		act()
	}
}

// Arm lets every later Hit of the point run a function, which may be called by several goroutines at once, until disarm is
// called. A point has one function.
func Arm(name string, act func()) (disarm func()) {
	mu.Lock()
	defer mu.Unlock()
	if acts[name] == nil {
		armed.Add(1)
	}
	acts[name] = act
	return sync.OnceFunc(func() {
		mu.Lock()
		defer mu.Unlock()
		delete(acts, name)
		armed.Add(-1)
	})
}
