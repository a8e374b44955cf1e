package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// kontiki is masters in network namespaces of their own. Clients connect to each master's loopback address, as they connect to
// upstream's API server.
type kontiki struct {
	program, dir string
	masters      int
	// nodesAreObjects leaves out what taints new nodes until a kubelet reports for them.
	nodesAreObjects bool

	supervisor *process
	config     *rest.Config
	dials      []dial
	pids       []int
}

func (k *kontiki) start(ctx context.Context) error {
	policy, err := auditPolicy(k.dir)
	if err != nil {
		return err
	}
	port, err := freePort()
	if err != nil {
		return err
	}
	args := []string{"dev", "--data-dir", k.data(), "--masters", fmt.Sprint(k.masters),
		"--workers", "0", "--api-port", fmt.Sprint(port), "--server-arg", "--audit-policy-file=" + policy, "--server-arg", "--audit-log-path=-"}
	if k.nodesAreObjects {
		args = append(args, "--server-arg", "--disable-admission-plugins=TaintNodesByCondition")
	}
	if k.supervisor, err = startProcess(filepath.Join(k.dir, "dev.log"), k.program, args...); err != nil {
		return err
	}
	if err := k.supervisor.await(ctx, "all masters vote", func(ctx context.Context) error {
		cmd := exec.CommandContext(ctx, k.program, "cluster", "status")
		cmd.Env = append(os.Environ(), "KUBECONFIG="+k.kubeconfig())
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		if n := strings.Count(string(out), "\nmaster-"); n < k.masters { // the first line names the leader
			return fmt.Errorf("%d masters: %s", n, out)
		}
		return nil
	}); err != nil {
		return err
	}
	if k.config, err = clientcmd.BuildConfigFromFlags("", k.kubeconfig()); err != nil {
		return err
	}
	return k.connect(ctx)
}

// connect learns the masters' processes and namespaces, and waits until each serves the API.
func (k *kontiki) connect(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, k.program, "dev", "status", "-o", "json", "--data-dir", k.data()).Output()
	if err != nil {
		return fmt.Errorf("kontiki dev status: %w", err)
	}
	var status struct {
		Hosts []struct {
			Name, Namespace string
			Pid             int
		}
	}
	if err := json.Unmarshal(out, &status); err != nil {
		return err
	}
	for _, h := range status.Hosts {
		if h.Pid == 0 {
			return fmt.Errorf("%s does not run", h.Name)
		}
		k.pids = append(k.pids, h.Pid)
		k.dials = append(k.dials, dialFrom(h.Namespace))
	}
	if len(k.pids) != k.masters {
		return fmt.Errorf("there are %d masters", len(k.pids))
	}
	k.config.Host = "https://127.0.0.1:6443"
	for _, d := range k.dials {
		config := rest.CopyConfig(k.config)
		config.Dial = d
		if err := k.supervisor.await(ctx, "a master is ready", func(ctx context.Context) error { return healthy(ctx, config) }); err != nil {
			return err
		}
	}
	k.config.Dial = k.dials[0]
	return nil
}

func (k *kontiki) data() string              { return filepath.Join(k.dir, "d") }
func (k *kontiki) kubeconfig() string        { return filepath.Join(k.data(), "kubeconfig") }
func (k *kontiki) admin() *rest.Config       { return k.config }
func (k *kontiki) endpoints() []dial         { return k.dials }
func (k *kontiki) processes() ([]int, error) { return k.pids, nil }

func (k *kontiki) stop() error {
	if k.supervisor == nil {
		return nil
	}
	err := k.supervisor.stop(time.Minute)
	// This removes what the supervisor has left, also after it was killed.
	out, stopping := exec.Command(k.program, "dev", "stop", "--data-dir", k.data()).CombinedOutput()
	if stopping != nil {
		err = errors.Join(err, fmt.Errorf("kontiki dev stop: %w: %s", stopping, out))
	}
	return err
}

// dialFrom returns a function that connects as a process in a network namespace does.
func dialFrom(namespace string) dial {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		type dialed struct {
			conn net.Conn
			err  error
		}
		done := make(chan dialed, 1)
		go func() {
			lockThread()
			var d dialed
			if d.err = enter(namespace); d.err == nil {
				d.conn, d.err = new(net.Dialer).DialContext(ctx, network, address)
			}
			done <- d
		}()
		d := <-done
		return d.conn, d.err
	}
}

// lockThread ties the goroutine to its thread, which ends with it, as it is never unlocked.
func lockThread() { runtime.LockOSThread() }

// enter moves the calling thread into a network namespace.
func enter(namespace string) error {
	file, err := os.Open(filepath.Join("/run/netns", namespace))
	if err != nil {
		return err
	}
	defer file.Close()
	return os.NewSyscallError("setns", unix.Setns(int(file.Fd()), unix.CLONE_NEWNET))
}

// freePort returns a port of the loopback address that nobody listens on.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
