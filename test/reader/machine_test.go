package reader_test

import (
	"bufio"
	"bytes"
	_ "embed"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

var (
	//go:embed outside.sh
	outside string
	//go:embed machine.sh
	inside string
	//go:embed prepare.sh
	prepare string
)

// A machine is what a reader of the documents has: a host of which nothing is in use, with a clone of the repository in which the binary and the images are
// built. All that is begun on it ends with it.
type machine struct {
	repository string
	pid        int // of its first process
}

func newMachine(t *testing.T, name string) *machine {
	t.Helper()
	program, images := os.Getenv("KONTIKI"), os.Getenv("IMAGES")
	if program == "" || images == "" {
		t.Fatal("KONTIKI and IMAGES must name the binary under test and the archive of images; `make e2e` does it")
	}
	if os.Geteuid() != 0 {
		t.Fatal("a machine is made of namespaces: run this as root")
	}
	repository, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	cgroup := fmt.Sprintf("kontiki-reader-%d-%s", os.Getpid(), name)
	cmd := exec.Command("bash", "-c", outside, "outside", cgroup, repository, t.TempDir(), program, images, name)
	cmd.Env = append(os.Environ(), "MACHINE="+inside)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	first := 0
	t.Cleanup(func() {
		// The kernel ends the first process of a machine after all others, and unshare ends after it.
		if first == 0 || syscall.Kill(first, syscall.SIGKILL) != nil {
			cmd.Process.Kill()
		}
		cmd.Wait()
		if err := removeCgroups(cgroup); err != nil {
			t.Error(err)
		}
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("the machine was not made: %q %v\n%s", line, err, errs.String())
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", cmd.Process.Pid))
	if err == nil {
		_, err = fmt.Sscan(string(children), &first)
	}
	if err != nil {
		t.Fatalf("the machine's first process: %q %v", children, err)
	}
	return &machine{repository, first}
}

// addresses are those of hosts in the documents. machine.sh has them in /etc/hosts.
var addresses = map[string]string{"host-1": "10.0.0.11", "host-2": "10.0.0.12", "host-3": "10.0.0.13", "host-4": "10.0.0.21"}

// newHost returns a machine of that name, in a network with the other hosts, whose switch is in the network of m.
func newHost(t *testing.T, m *machine, name string) *machine {
	t.Helper()
	if addresses[name] == "" {
		t.Fatalf("the documents have no host %q", name)
	}
	host := newMachine(t, name)
	const plug = `set -e
ip link show hosts >/dev/null 2>&1 || { ip link add hosts type bridge; ip addr add 10.0.0.1/24 dev hosts; ip link set hosts up; }
ip link del "$1" 2>/dev/null || true
ip link add "$1" master hosts up type veth peer name eth0 netns "$2"
nsenter -t "$2" -n sh -c 'ip addr add "$0"/24 dev eth0; ip link set eth0 up; ip route add default via 10.0.0.1' "$3"`
	out, err := exec.Command("nsenter", "-t", fmt.Sprint(m.pid), "-n", "bash", "-c", plug, "plug", name, fmt.Sprint(host.pid), addresses[name]).CombinedOutput()
	if err != nil {
		t.Fatalf("plug %s in: %v\n%s", name, err, out)
	}
	return host
}

// shell returns a command that reads commands from standard input, as a shell with a new home folder in the clone of the repository.
func (m *machine) shell() *exec.Cmd {
	const begin = `cd "$1" && export TMPDIR=/run HOME="$(mktemp -d -p /run)" && exec bash --noprofile --norc`
	cmd := exec.Command("nsenter", "-t", fmt.Sprint(m.pid), "-m", "-n", "-p", "-u", "-C", "bash", "-c", begin, "shell", m.repository)
	cmd.Env = []string{"USER=root", "TERM=dumb", "LANG=C.UTF-8", "PATH=" + m.repository + "/bin:" + os.Getenv("PATH")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// removeCgroups removes what is left of a machine's cgroups, innermost first.
func removeCgroups(name string) error {
	roots, err := filepath.Glob("/sys/fs/cgroup/*/" + name)
	if err != nil {
		return err
	}
	for _, root := range append(roots, "/sys/fs/cgroup/"+name) {
		var dirs []string
		err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		if err != nil {
			return err
		}
		for _, dir := range slices.Backward(dirs) {
			if err := unix.Rmdir(dir); err != nil && err != unix.ENOENT {
				return fmt.Errorf("remove the cgroup %s: %w", dir, err)
			}
		}
	}
	return nil
}
