// Package packaging tests the Debian package and what systemd is told. KONTIKI names the program.
package packaging

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kontiki/kontiki/test/await"
)

func program(t *testing.T) string {
	t.Helper()
	p := os.Getenv("KONTIKI")
	if p == "" {
		t.Fatal("KONTIKI must name the binary under test; `make e2e` does it")
	}
	return p
}

// run runs a command, for a minute at most.
func run(t *testing.T, env []string, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return string(out)
}

// lifeOfAPackage installs the package in a copy of this machine's files, in a mount namespace. $1 is an empty directory, $2 the package.
const lifeOfAPackage = `set -eu
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
mount -t tmpfs tmpfs "$1/root/tmp"
mount -t tmpfs tmpfs "$1/root/run"
mount -t proc proc "$1/root/proc"
cp "$2" "$1/root/tmp/kontiki.deb"
exec chroot "$1/root" /bin/sh -eux <<'END' 2>&1
rm -rf /var/lib/kontiki /etc/kontiki
dpkg --force-depends -i /tmp/kontiki.deb
kontiki --version
test "$(stat -c %a /etc/kontiki/config.yaml)" = 600
zcat /usr/share/man/man1/kontiki-server.1.gz | grep -q 'SH SYNOPSIS'
test -s /usr/share/bash-completion/completions/kontiki
if command -v systemd-analyze; then systemd-analyze verify /usr/lib/systemd/system/kontiki-*.service; fi
echo 'log-level: debug' >> /etc/kontiki/config.yaml
mkdir -p /var/lib/kontiki/server
echo data > /var/lib/kontiki/server/state
dpkg --force-depends -i /tmp/kontiki.deb
grep -q '^log-level: debug' /etc/kontiki/config.yaml
dpkg -r kontiki
grep -q '^log-level: debug' /etc/kontiki/config.yaml
test ! -e /usr/bin/kontiki
test ! -e /usr/lib/systemd/system/kontiki-server.service
dpkg -P kontiki
test ! -e /etc/kontiki/config.yaml
grep -q data /var/lib/kontiki/server/state
echo all is well
END`

// TestLifeOfThePackage: it is installed, upgraded, removed and purged; the configuration stays until the purge, the data for ever.
func TestLifeOfThePackage(t *testing.T) {
	dir := t.TempDir()
	deb := filepath.Join(dir, "kontiki.deb")
	run(t, []string{"COMPRESSION=-Znone"}, "../../deploy/debian/build.sh", program(t), deb)
	place := filepath.Join(dir, "place")
	if err := os.Mkdir(place, 0o755); err != nil {
		t.Fatal(err)
	}
	out := run(t, []string{"DEBIAN_FRONTEND=noninteractive"}, "unshare", "--mount", "--pid", "--fork", "--kill-child=SIGKILL", "bash", "-c", lifeOfAPackage, "bash", place, deb)
	for _, line := range []string{"all is well", "systemctl enable --now kontiki-server", "The data in /var/lib/kontiki"} {
		if !strings.Contains(strings.ToLower(out), strings.ToLower(line)) {
			t.Errorf("%q is not in the output:\n%s", line, out)
		}
	}
}

// TestSystemdIsToldWhenAMasterIsReady: by the protocol of sd_notify(3).
func TestSystemdIsToldWhenAMasterIsReady(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	// A network of its own, with an address that is not loopback's.
	const inside = `ip link set lo up && ip addr add 192.0.2.1/32 dev lo && exec "$0" server --no-agent --node-ip 192.0.2.1 --data-dir "$1/server" --config "$1/config.yaml"`
	if err := os.WriteFile(filepath.Join(dir, "config.yaml"), []byte("log-level: info\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("unshare", "--net", "sh", "-c", inside, program(t), dir)
	cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), "NOTIFY_SOCKET="+socket), log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { cmd.Process.Kill(); <-ended })
	said := func() string {
		t.Helper()
		if err := l.SetReadDeadline(time.Now().Add(await.Patience)); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 1024)
		n, err := l.Read(b)
		if err != nil {
			text, _ := os.ReadFile(log.Name())
			t.Fatalf("%v; the master's log:\n%s", err, text)
		}
		return string(b[:n])
	}
	var states []string
	states = append(states, said())
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	states = append(states, said())
	if !slices.Equal(states, []string{"READY=1", "STOPPING=1"}) {
		t.Errorf("systemd was told %q", states)
	}
}
