// Package guard stops pods whose worker has no lease, whatever becomes of the worker's agent.
//
// A guard is a small process beside the agent. The agent tells it until when the worker's lease lasts and which pods need one; when that
// time is over, the guard kills everything in these pods' cgroups, again and again, until there is a lease. It goes on when the agent is
// stopped, killed or hangs, and a new agent finds it. It ends by itself when it has no agent and nothing left to do.
//
// Time is CLOCK_BOOTTIME, which nobody can set and which goes on while the machine sleeps.
package guard

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// State is what an agent tells a guard, and the guard's answer: what it holds to.
type State struct {
	// Deadline is the end of the lease, by Now.
	Deadline time.Duration `json:"deadline"`
	// Pods are the UIDs of the pods that need a lease.
	Pods []string `json:"pods"`
	// Ask leaves the guard's state as it is.
	Ask bool `json:"ask,omitempty"`
}

// Now returns the time since the machine was started.
func Now() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		panic(err) // only for a clock that the kernel does not know
	}
	return time.Duration(t.Nano())
}

// tick is how often a guard looks at the clock. Timers do not run while the machine sleeps, so it does not wait for the deadline itself.
const tick = 50 * time.Millisecond

// server is a running guard.
type server struct {
	kill func(uid string) (left bool, err error)
	now  func() time.Duration

	mu     sync.Mutex
	state  State
	agents int
}

// Main runs a guard: its arguments are the socket's path and the parent of the pods' cgroups. It returns the exit code.
func Main(args []string) int {
	if len(args) != 2 {
		fmt.Fprintln(os.Stderr, "guard: SOCKET and CGROUP-PARENT are required")
		return 2
	}
	// The last process that the kernel should kill, and the first that it should run.
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("-999"), 0o644)
	_ = unix.Setpriority(unix.PRIO_PROCESS, 0, -20)
	s := &server{kill: newCgroups(args[1]).kill, now: Now}
	if err := s.serve(args[0]); err != nil {
		fmt.Fprintln(os.Stderr, "guard:", err)
		return 1
	}
	return 0
}

// lonely is how long a guard without an agent and without anything to do stays.
const lonely = 5 * time.Second

// serve listens on a socket, and guards, until there is nothing to do.
func (s *server) serve(path string) error {
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil // another guard is running
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	defer listener.Close()
	if err := os.Chmod(path, 0o600); err != nil {
		return err
	}
	go s.accept(listener)
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	idle := s.now()
	for range ticker.C {
		if s.look() {
			idle = s.now()
		} else if s.now()-idle > lonely {
			return nil
		}
	}
	return nil
}

// look kills what must not run now. It returns whether the guard is needed.
func (s *server) look() (needed bool) {
	s.mu.Lock()
	state, agents := s.state, s.agents
	s.mu.Unlock()
	needed = agents > 0
	expired := s.now() >= state.Deadline
	for _, uid := range state.Pods {
		if !expired {
			return true
		}
		left, err := s.kill(uid)
		if err != nil {
			fmt.Fprintln(os.Stderr, "guard: stop pod", uid+":", err)
		}
		needed = needed || left || err != nil
	}
	return needed
}

func (s *server) accept(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go s.talk(conn)
	}
}

// talk serves one agent.
func (s *server) talk(conn net.Conn) {
	defer conn.Close()
	s.count(1)
	defer s.count(-1)
	decoder, encoder := json.NewDecoder(conn), json.NewEncoder(conn)
	for {
		var told State
		if decoder.Decode(&told) != nil {
			return
		}
		s.mu.Lock()
		if !told.Ask {
			s.state = told
		}
		answer := s.state
		s.mu.Unlock()
		if encoder.Encode(answer) != nil {
			return
		}
	}
}

func (s *server) count(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.agents += n
}
