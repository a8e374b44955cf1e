package guard

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// Guard is an agent's side: it starts the guard's process when it is first needed, and whenever it is gone.
type Guard struct {
	// Command runs a guard; the socket's path and the parent of the pods' cgroups are added.
	Command []string
	// Socket is the path of its socket, in a directory that exists.
	Socket       string
	CgroupParent string

	mu   sync.Mutex
	conn net.Conn
}

// talkTimeout limits an exchange with the guard, startTimeout its start.
const talkTimeout, startTimeout = time.Second, 5 * time.Second

// Tell makes the guard hold to a state. If it returns an error, the pods are not guarded.
func (g *Guard) Tell(ctx context.Context, s State) error {
	_, err := g.exchange(ctx, s, true)
	return err
}

// Found returns what a guard that an earlier agent started holds to; ok is false if there is none.
func (g *Guard) Found(ctx context.Context) (s State, ok bool) {
	s, err := g.exchange(ctx, State{Ask: true}, false)
	return s, err == nil
}

func (g *Guard) exchange(ctx context.Context, s State, start bool) (State, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.conn != nil {
		if answer, err := g.talk(s); err == nil {
			return answer, nil
		}
	}
	conn, err := g.connect(ctx, start)
	if err != nil {
		return State{}, fmt.Errorf("guard: %w", err)
	}
	g.conn = conn
	return g.talk(s)
}

// talk sends a state and returns the answer. The caller holds mu.
func (g *Guard) talk(s State) (answer State, err error) {
	defer func() {
		if err != nil {
			g.conn.Close()
			g.conn = nil
		}
	}()
	if err := g.conn.SetDeadline(time.Now().Add(talkTimeout)); err != nil {
		return answer, err
	}
	if err := json.NewEncoder(g.conn).Encode(s); err != nil {
		return answer, err
	}
	return answer, json.NewDecoder(g.conn).Decode(&answer)
}

func (g *Guard) connect(ctx context.Context, start bool) (net.Conn, error) {
	conn, err := net.Dial("unix", g.Socket)
	if err == nil || !start {
		return conn, err
	}
	if err := g.start(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		if conn, err = net.Dial("unix", g.Socket); err == nil {
			return conn, nil
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// start starts a guard in a session of its own, so that what ends the agent does not end it.
func (g *Guard) start() error {
	log, err := os.OpenFile(filepath.Join(filepath.Dir(g.Socket), "guard.log"), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(g.Command[0], append(g.Command[1:], g.Socket, g.CgroupParent)...)
	cmd.Stderr = log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	go cmd.Wait() // it outlives this process, or is reaped
	return nil
}

// Close ends the conversation. The guard goes on.
func (g *Guard) Close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.conn != nil {
		g.conn.Close()
		g.conn = nil
	}
}
