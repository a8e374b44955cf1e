// Package failpoint names points of the program at which a test injects an action, usually the death of the process. A point that
// is not armed costs one atomic load.
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

// Hit runs the function that the point is armed with, in the caller's goroutine.
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

// Arm makes every later Hit of the point run act, possibly from several goroutines at once, until disarm is called. A point can be
// armed with one function at a time.
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
