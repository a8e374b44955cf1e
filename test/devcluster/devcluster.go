// Package devcluster runs a development cluster of the binary under test, for the end-to-end tests and the whole-system
// benchmarks. The binary is named by KONTIKI and the images' archive by IMAGES; the Makefile sets both.
package devcluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// commandLimit is the time limit of every command.
const commandLimit = 3 * time.Minute

// Cluster is a running development cluster.
type Cluster struct {
	Kontiki, Dir string
	APIPort      int
	// DemoPort is forwarded to the demo's node port.
	DemoPort int
	Config   *rest.Config
	Set      *kubernetes.Clientset

	kubeconfig []byte // from which Config and Set were created
}

// Start starts a cluster in a new directory, with additional flags of `kontiki dev`, and imports the images of IMAGES if there are workers. Its output goes to
// out. Call Stop, even if Start failed.
func Start(out io.Writer, masters, workers int, further ...string) (*Cluster, error) {
	program := os.Getenv("KONTIKI")
	if program == "" {
		return &Cluster{}, errors.New("KONTIKI must name the binary under test; `make e2e` and `make bench` do it")
	}
	return StartProgram(program, out, masters, workers, further...)
}

// StartProgram is Start with another kontiki binary.
func StartProgram(program string, out io.Writer, masters, workers int, further ...string) (*Cluster, error) {
	c := &Cluster{Kontiki: program}
	if os.Geteuid() != 0 {
		return c, errors.New("a development cluster makes network namespaces and runs containers: run this as root")
	}
	var err error
	// Paths of unix sockets below it are limited to 108 bytes: keep it short.
	if c.Dir, err = os.MkdirTemp("", "kte"); err != nil {
		return c, err
	}
	if err := os.Chmod(c.Dir, 0o711); err != nil { // as /run: containers in user namespaces have their bundles below
		return c, err
	}
	if c.APIPort, c.DemoPort, err = freePorts(); err != nil {
		return c, err
	}
	text, err := c.Run(append([]string{"dev", "--detach", "--masters", fmt.Sprint(masters), "--workers", fmt.Sprint(workers),
		"--api-port", fmt.Sprint(c.APIPort), "--publish", fmt.Sprintf("%d:30080", c.DemoPort)}, further...)...)
	fmt.Fprint(out, text)
	if err != nil {
		return c, err
	}
	if err := c.Refresh(); err != nil {
		return c, err
	}
	images := os.Getenv("IMAGES")
	if workers == 0 || images == "" {
		return c, nil
	}
	_, err = c.Run("image", "import", images)
	return c, err
}

// At returns a cluster that the caller runs, with a directory and a port for its API; call Refresh when it is up.
func At(program, dir string, apiPort int) *Cluster {
	return &Cluster{Kontiki: program, Dir: dir, APIPort: apiPort}
}

// FreePort returns a port that nobody listens on.
func FreePort() (int, error) {
	port, _, err := freePorts()
	return port, err
}

// Refresh creates Config and Set again if the kubeconfig has changed, as it does with the cluster's CA.
func (c *Cluster) Refresh() error {
	data, err := os.ReadFile(c.Kubeconfig())
	if err != nil || bytes.Equal(data, c.kubeconfig) {
		return err
	}
	config, err := clientcmd.RESTConfigFromKubeConfig(data)
	if err != nil {
		return err
	}
	config.QPS = -1
	set, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	c.Config, c.Set, c.kubeconfig = config, set, data
	return nil
}

// Stop stops the cluster and removes everything of it.
func (c *Cluster) Stop() error {
	if c.Dir == "" {
		return nil
	}
	_, err := c.Run("dev", "stop", "--purge")
	return errors.Join(err, os.RemoveAll(c.Dir))
}

// Kubeconfig returns the path of the administrator's kubeconfig.
func (c *Cluster) Kubeconfig() string { return filepath.Join(c.Dir, "kubeconfig") }

// Run runs the binary against the cluster and returns its output.
func (c *Cluster) Run(args ...string) (string, error) { return c.RunWith(nil, args...) }

// RunWith is Run with standard input.
func (c *Cluster) RunWith(stdin io.Reader, args ...string) (string, error) {
	if args[0] == "dev" {
		args = append(args, "--data-dir", c.Dir)
	}
	ctx, cancel := context.WithTimeout(context.Background(), commandLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.Kontiki, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig())
	cmd.Stdin = stdin
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("kontiki %s: %w\n%s%s", strings.Join(args, " "), err, errs.String(), out.String())
	}
	return out.String() + errs.String(), nil
}

// RunTo runs the binary against the cluster and writes its standard output to out.
func (c *Cluster) RunTo(out io.Writer, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), commandLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.Kontiki, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig())
	var errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = out, &errs
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("kontiki %s: %w\n%s", strings.Join(args, " "), err, errs.String())
	}
	return nil
}

// Leader returns the name of the leader.
func (c *Cluster) Leader() (string, error) {
	out, err := c.Run("cluster", "status", "-o", "json")
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return "", err
	}
	var status struct{ Leader string }
	if err := json.NewDecoder(strings.NewReader(out)).Decode(&status); err != nil {
		return "", fmt.Errorf("cluster status: %w", err)
	}
	if status.Leader == "" {
		return "", errors.New("there is no leader")
	}
	return status.Leader, nil
}

// Namespace returns a host's network namespace.
func (c *Cluster) Namespace(host string) (string, error) {
	out, err := c.Run("dev", "status", "-o", "json")
	if err != nil {
		return "", err
	}
	var status struct {
		Hosts []struct{ Name, Namespace string }
	}
	if err := json.Unmarshal([]byte(out), &status); err != nil {
		return "", err
	}
	for _, h := range status.Hosts {
		if h.Name == host {
			return h.Namespace, nil
		}
	}
	return "", fmt.Errorf("there is no host %s", host)
}

// DialFrom returns a function that dials like a process on the host.
func (c *Cluster) DialFrom(host string) (func(ctx context.Context, network, address string) (net.Conn, error), error) {
	namespace, err := c.Namespace(host)
	if err != nil {
		return nil, err
	}
	type dialed struct {
		conn net.Conn
		err  error
	}
	dialer := new(net.Dialer)
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		done := make(chan dialed, 1)
		go func() {
			runtime.LockOSThread() // never unlocked, so the thread ends with the goroutine
			var d dialed
			if d.err = enter(namespace); d.err == nil {
				d.conn, d.err = dialer.DialContext(ctx, network, address)
			}
			done <- d
		}()
		d := <-done
		return d.conn, d.err
	}, nil
}

// ListenOn listens like a process on the host.
func (c *Cluster) ListenOn(ctx context.Context, host, address string) (net.Listener, error) {
	namespace, err := c.Namespace(host)
	if err != nil {
		return nil, err
	}
	type listening struct {
		listener net.Listener
		err      error
	}
	done := make(chan listening, 1)
	go func() {
		runtime.LockOSThread() // never unlocked, so the thread ends with the goroutine
		var l listening
		if l.err = enter(namespace); l.err == nil {
			l.listener, l.err = new(net.ListenConfig).Listen(ctx, "tcp", address)
		}
		done <- l
	}()
	l := <-done
	return l.listener, l.err
}

// enter moves the calling thread into a network namespace.
func enter(namespace string) error {
	file, err := os.Open(filepath.Join("/run/netns", namespace))
	if err != nil {
		return err
	}
	defer file.Close()
	return os.NewSyscallError("setns", unix.Setns(int(file.Fd()), unix.CLONE_NEWNET))
}

// Cable disconnects a host's network cable, or connects it: for the others the host vanishes without closing connections.
func (c *Cluster) Cable(host string, in bool) error {
	namespace, err := c.Namespace(host)
	if err != nil {
		return err
	}
	state := "down"
	if in {
		state = "up"
	}
	if out, err := exec.Command("ip", "-n", namespace, "link", "set", "eth0", state).CombinedOutput(); err != nil {
		return fmt.Errorf("set the link of %s %s: %w: %s", host, state, err, out)
	}
	return nil
}

// Pid returns the pid of Kontiki's process on a host.
func (c *Cluster) Pid(host string) (int, error) {
	out, err := c.Run("dev", "status", "-o", "json")
	if err != nil {
		return 0, err
	}
	var status struct {
		Hosts []struct {
			Name string
			Pid  int
		}
	}
	if err := json.Unmarshal([]byte(out), &status); err != nil {
		return 0, err
	}
	for _, h := range status.Hosts {
		if h.Name == host && h.Pid != 0 {
			return h.Pid, nil
		}
	}
	return 0, fmt.Errorf("nothing runs on host %s", host)
}

// Process returns the pid of a process that the supervisor started: a host's, or "containerd".
func (c *Cluster) Process(name string) (int, error) {
	data, err := os.ReadFile(filepath.Join(c.Dir, "dev.json"))
	if err != nil {
		return 0, err
	}
	var state struct{ Processes map[string]struct{ Pid int } }
	if err := json.Unmarshal(data, &state); err != nil {
		return 0, err
	}
	if p := state.Processes[name]; p.Pid != 0 {
		return p.Pid, nil
	}
	return 0, fmt.Errorf("%s was not started", name)
}

// ShowLogs writes the end of every host's log.
func (c *Cluster) ShowLogs(out io.Writer) {
	files, _ := filepath.Glob(filepath.Join(c.Dir, "logs", "*.log")) // Glob fails only for a malformed pattern
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		fmt.Fprintf(out, "--- %s\n%s\n", filepath.Base(file), data[max(0, len(data)-4000):])
	}
}

// freePorts chooses two ports. Both are held while they are chosen: the kernel might return a released one again at once.
func freePorts() (first, second int, err error) {
	a, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, 0, err
	}
	defer a.Close()
	b, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, 0, err
	}
	defer b.Close()
	return a.Addr().(*net.TCPAddr).Port, b.Addr().(*net.TCPAddr).Port, nil
}
