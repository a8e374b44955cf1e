package cluster

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/kontiki/kontiki/cluster/gossip"
	"github.com/kontiki/kontiki/internal/failpoint"
	"github.com/kontiki/kontiki/node/network/nettest"
	"github.com/kontiki/kontiki/test/await"
)

// childVariable makes the test binary a master: a process that can be stopped and killed as a whole.
const childVariable = "KONTIKI_TEST_MASTER"

type childConfig struct {
	Name, DataDir, Address, Gossip string
	Join                           []string
	Token                          string
	RealTimers                     bool
	SmallDisk                      bool // reserves a megabyte in place of its many
	// DieAt names a failpoint at which the process kills itself, when it is hit for the Nth time.
	DieAt string
	Nth   int
}

type childCall struct {
	ID         int
	Op         string // ready, put, get, transact, list, leads, die, remove
	Key, Value string
}

type childAnswer struct {
	ID              int
	Value, Error    string
	Address, Gossip string
}

// serveIfChild runs a master until it is killed or its input ends.
func serveIfChild() {
	text := os.Getenv(childVariable)
	if text == "" {
		return
	}
	var in childConfig
	if err := json.Unmarshal([]byte(text), &in); err != nil {
		panic(err)
	}
	cfg := Config{
		Name: in.Name, DataDir: in.DataDir, BindAddress: in.Address, GossipBindAddress: in.Gossip, Bootstrap: len(in.Join) == 0,
		Join: in.Join, Token: in.Token, APIAddress: "127.0.0.1:6443", Timings: fast, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	if os.Getenv("KONTIKI_TEST_LOG") != "" {
		cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	if compacting(&cfg); in.RealTimers {
		cfg.Timings = DefaultTimings
		cfg.Timings.Gossip = gossip.Local
	}
	if in.DieAt != "" {
		dieAt(in.DieAt, in.Nth)
	}
	if in.SmallDisk {
		cfg.DiskReserve, cfg.DiskLow = 1<<20, 1<<20
	}
	ctx, cancel := context.WithCancel(context.Background())
	c, err := Open(ctx, cfg)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	var mu sync.Mutex
	out := json.NewEncoder(os.Stdout)
	answer := func(a childAnswer) {
		mu.Lock()
		defer mu.Unlock()
		_ = out.Encode(a)
	}
	go func() {
		calls := json.NewDecoder(bufio.NewReader(os.Stdin))
		for {
			var call childCall
			if err := calls.Decode(&call); err != nil {
				cancel()
				return
			}
			go func() {
				a := childAnswer{ID: call.ID, Address: c.Address(), Gossip: c.GossipAddress()}
				if err := c.serve(ctx, call, &a); err != nil {
					a.Error = err.Error()
				}
				answer(a)
			}()
		}
	}()
	if err := c.Run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// dieAt lets the process kill itself at a failpoint.
func dieAt(name string, nth int) {
	var hits atomic.Int64
	failpoint.Arm(name, func() {
		if hits.Add(1) == int64(nth) {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // it comes at once, but not before the next instruction
		}
	})
}

// setClock sets the wall clock of this process, seconds off the machine's; nil where the runtime has none of its own (clocks_test.go).
var setClock func(seconds int64)

func (c *Cluster) serve(ctx context.Context, call childCall, a *childAnswer) error {
	switch call.Op {
	case "clock":
		seconds, err := strconv.ParseInt(call.Value, 10, 64)
		if err == nil {
			setClock(seconds)
		}
		return err
	case "now":
		a.Value = time.Now().UTC().Format(time.RFC3339)
		return nil
	case "term":
		a.Value = strconv.FormatUint(c.consensus.Term(), 10)
		return nil
	case "ready":
		select {
		case <-c.Ready():
			if master, _, err := initialTokensOf(c); err == nil {
				a.Value = master
			}
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	case "put":
		_, err := c.Propose(ctx, put(call.Key, call.Value))
		return err
	case "get":
		view, err := c.Consistent(ctx)
		if err != nil {
			return err
		}
		if v, ok := view.Get(call.Key); ok {
			a.Value = string(v.Value)
		}
		return nil
	case "transact":
		return c.serveTransaction(ctx, call)
	case "list":
		return c.serveList(ctx, call, a)
	case "die":
		var nth int
		if _, err := fmt.Sscan(call.Value, &nth); err != nil {
			return err
		}
		dieAt(call.Key, nth)
		return nil
	case "remove":
		return c.RemoveMember(ctx, call.Key)
	case "ask":
		return c.serveAsk(ctx, call.Value, a)
	case "watch":
		return c.serveWatch(ctx, call.Value, a)
	case "leads":
		a.Value = fmt.Sprint(c.IsLeader())
		return nil
	}
	return errors.New("unknown call")
}

// child is a master in a process of its own.
type child struct {
	t      testing.TB
	cfg    childConfig
	host   *nettest.Machine // nil is this machine
	cmd    *exec.Cmd
	in     *json.Encoder
	pipe   io.Closer
	mu     sync.Mutex
	next   int
	wait   map[int]chan childAnswer
	exited chan struct{}
}

func startChild(t testing.TB, cfg childConfig) *child { return startChildOn(t, nil, cfg) }

func startChildOn(t testing.TB, host *nettest.Machine, cfg childConfig) *child {
	c := &child{t: t, cfg: cfg, host: host}
	c.start()
	t.Cleanup(c.kill)
	return c
}

func (c *child) start() {
	c.t.Helper()
	text, err := json.Marshal(c.cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		c.t.Fatal(err)
	}
	c.cmd = exec.Command(self)
	if c.host != nil {
		c.cmd = exec.Command("nsenter", "--net="+c.host.Path, self) // which becomes the process
	}
	c.cmd.Env = append(os.Environ(), childVariable+"="+string(text))
	c.cmd.Stderr = os.Stderr
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := c.cmd.StdinPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	if err := startFromThread(c.cmd); err != nil {
		c.t.Fatal(err)
	}
	c.mu.Lock()
	c.in, c.pipe, c.wait, c.exited = json.NewEncoder(in), in, map[int]chan childAnswer{}, make(chan struct{})
	c.mu.Unlock()
	go c.listen(out, c.cmd, c.exited)
}

var starts = sync.OnceValue(func() chan func() {
	jobs := make(chan func())
	go func() {
		runtime.LockOSThread()
		for job := range jobs {
			job()
		}
	}()
	return jobs
})

// startFromThread starts a process from a thread that lives as long as this process. Pdeathsig is about the thread that started it, and
// threads end: one that has made a network namespace does not go on.
func startFromThread(cmd *exec.Cmd) error {
	done := make(chan error, 1)
	starts() <- func() { done <- cmd.Start() }
	return <-done
}

// listen hands out answers until the process ends.
func (c *child) listen(out io.Reader, cmd *exec.Cmd, exited chan struct{}) {
	answers := json.NewDecoder(out)
	for {
		var a childAnswer
		if err := answers.Decode(&a); err != nil {
			_ = cmd.Wait()
			close(exited)
			return
		}
		c.mu.Lock()
		if done := c.wait[a.ID]; done != nil {
			done <- a
			delete(c.wait, a.ID)
		}
		c.mu.Unlock()
	}
}

// begin sends a call; a process that stands still finds it when it goes on.
func (c *child) begin(op, key, value string) (done <-chan childAnswer, exited <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next++
	answer := make(chan childAnswer, 1)
	c.wait[c.next] = answer
	_ = c.in.Encode(childCall{ID: c.next, Op: op, Key: key, Value: value}) // a process that is gone shows below
	return answer, c.exited
}

func (c *child) call(op, key, value string) (childAnswer, error) {
	done, exited := c.begin(op, key, value)
	return c.await(done, exited)
}

func (c *child) await(done <-chan childAnswer, exited <-chan struct{}) (childAnswer, error) {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case a := <-done:
		if a.Error != "" {
			return a, errors.New(a.Error)
		}
		return a, nil
	case <-exited:
		return childAnswer{}, errors.New("the process is gone")
	case <-timer.C:
		return childAnswer{}, errors.New("no answer")
	}
}

func (c *child) ready() childAnswer {
	c.t.Helper()
	a, err := c.call("ready", "", "")
	if err != nil {
		c.t.Fatalf("%s is not ready: %v", c.cfg.Name, err)
	}
	c.cfg.Address, c.cfg.Gossip = a.Address, a.Gossip
	return a
}

func (c *child) signal(s syscall.Signal) {
	if err := c.cmd.Process.Signal(s); err != nil {
		c.t.Errorf("signal %v to %s: %v", s, c.cfg.Name, err)
	}
}

// kill is kill -9.
func (c *child) kill() {
	_ = c.cmd.Process.Kill()
	<-c.exited
	c.pipe.Close()
}

func startChildren(t testing.TB, count int, realTimers bool) []*child {
	dir := t.TempDir()
	config := func(i int) childConfig {
		name := fmt.Sprintf("master-%d", i)
		return childConfig{Name: name, DataDir: filepath.Join(dir, name), Address: "127.0.0.1:0", Gossip: "127.0.0.1:0", RealTimers: realTimers}
	}
	children := []*child{startChild(t, config(1))}
	token := children[0].ready().Value
	for i := 2; i <= count; i++ {
		cfg := config(i)
		cfg.Join, cfg.Token = []string{children[0].cfg.Address}, token
		c := startChild(t, cfg)
		c.ready()
		children = append(children, c)
	}
	return children
}

func leaderOf(t testing.TB, children []*child, not *child) (leader *child) {
	t.Helper()
	await.That(t, "a leader", func() error {
		for _, c := range children {
			if c == not {
				continue
			}
			if a, err := c.call("leads", "", ""); err == nil && a.Value == "true" {
				leader = c
				return nil
			}
		}
		return errors.New("nobody leads")
	})
	return leader
}
