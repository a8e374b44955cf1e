package upgrade_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kontiki/kontiki/cmd/kontiki/upgrade"
)

// remote is a host: ssh runs what it is given in a shell, whose systemctl and apt-get only note how they were called.
type remote struct {
	t                     *testing.T
	dir, path, ssh, calls string
}

func newRemote(t *testing.T) *remote {
	dir := t.TempDir()
	r := &remote{t: t, dir: dir, path: filepath.Join(dir, "bin", "kontiki"), ssh: filepath.Join(dir, "ssh"), calls: filepath.Join(dir, "calls")}
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	r.write(r.path, says(before))
	r.write(r.ssh, fmt.Sprintf("#!/bin/sh\necho \"ssh $1 $2 $3\" >> %[1]s/calls\nPATH=%[1]s/bin:$PATH exec sh -c \"$4\"\n", dir))
	for _, name := range []string{"systemctl", "apt-get"} {
		r.write(filepath.Join(dir, "bin", name), fmt.Sprintf("#!/bin/sh\necho %s \"$@\" >> %s/calls\n", name, dir))
	}
	return r
}

// says is a program that says that it is of a version.
func says(version string) string { return "#!/bin/sh\necho kontiki version " + version + "\n" }

func (r *remote) write(path, text string) string {
	r.t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		r.t.Fatal(err)
	}
	return path
}

func (r *remote) read(path string) string {
	r.t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		r.t.Fatal(err)
	}
	return string(data)
}

var worker = upgrade.Host{Name: "w1", Role: upgrade.Worker, Address: "10.0.1.1"}

func TestAProgramIsReplacedBySSH(t *testing.T) {
	r := newRemote(t)
	file := r.write(filepath.Join(r.dir, "next"), says(after))
	s := &upgrade.SSH{Command: r.ssh, User: "root", File: file, Path: r.path, Version: after}
	if err := s.Replace(t.Context(), worker); err != nil {
		t.Fatal(err)
	}
	if got := r.read(r.path); got != says(after) {
		t.Errorf("the program is %q", got)
	}
	if got := r.read(r.path + ".previous"); got != says(before) {
		t.Errorf("the previous program is %q", got)
	}
	if info, err := os.Stat(r.path); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	want := "ssh -l root 10.0.1.1\nsystemctl --no-block try-restart kontiki-server.service kontiki-master.service kontiki-agent.service\n"
	if got := r.read(r.calls); got != want {
		t.Errorf("calls:\n%swant:\n%s", got, want)
	}
}

// TestWhatSSHRefuses: the old program stays where it is, nothing is restarted, and nothing is left.
func TestWhatSSHRefuses(t *testing.T) {
	for what, c := range map[string]struct {
		change func(r *remote, s *upgrade.SSH)
		says   string
	}{
		"another version":   {func(r *remote, s *upgrade.SSH) { s.File = r.write(filepath.Join(r.dir, "next"), says("v9")) }, "the program says of itself: kontiki version v9"},
		"another machine's": {func(r *remote, s *upgrade.SSH) { s.File = r.write(filepath.Join(r.dir, "next"), "\x7fELF") }, "does not run on this host"},
		"not what was sent": {func(r *remote, s *upgrade.SSH) {
			r.write(filepath.Join(r.dir, "bin", "cat"), "#!/bin/sh\necho spoiled\n")
		}, "did not arrive as it was sent"},
		"no address": {func(r *remote, s *upgrade.SSH) {}, "knows no address"},
		"an option":  {func(r *remote, s *upgrade.SSH) {}, "knows no address"},
		"ssh fails": {func(r *remote, s *upgrade.SSH) {
			s.Command = r.write(r.ssh, "#!/bin/sh\necho no route >&2\nexit 255\n")
		}, "no route"},
		"the file is missing": {func(r *remote, s *upgrade.SSH) { s.File += ".missing" }, "no such file"},
	} {
		t.Run(what, func(t *testing.T) {
			r := newRemote(t)
			s := &upgrade.SSH{Command: r.ssh, User: "root", File: r.write(filepath.Join(r.dir, "next"), says(after)), Path: r.path, Version: after}
			c.change(r, s)
			host := worker
			switch what {
			case "no address":
				host.Address = ""
			case "an option":
				host.Address = "-oProxyCommand=touch /tmp/x"
			}
			if err := s.Replace(t.Context(), host); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want: %s", err, c.says)
			}
			if got := r.read(r.path); got != says(before) {
				t.Errorf("the program is %q", got)
			}
			if left, _ := filepath.Glob(r.path + ".*"); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
			if calls, _ := os.ReadFile(r.calls); strings.Contains(string(calls), "systemctl") {
				t.Errorf("calls: %s", calls)
			}
		})
	}
}

func TestAPackageIsInstalledBySSH(t *testing.T) {
	r := newRemote(t)
	file := r.write(filepath.Join(r.dir, "kontiki.deb"), "a package")
	s := &upgrade.SSH{Command: r.ssh, User: "admin", File: file, Package: true, Path: r.path, Version: after}
	if err := s.Replace(t.Context(), worker); err != nil {
		t.Fatal(err)
	}
	calls := r.read(r.calls)
	if !strings.Contains(calls, "ssh -l admin 10.0.1.1\napt-get install -y ") || !strings.HasSuffix(strings.TrimSpace(calls), "/kontiki.deb") {
		t.Errorf("calls: %s", calls)
	}
}

func TestACommandPerHostFindsWhatItIsAbout(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	replace := upgrade.Each(`echo "$KONTIKI_HOST $KONTIKI_ADDRESS $KONTIKI_ROLE $KONTIKI_VERSION" > `+out, after)
	if err := replace(t.Context(), worker); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(out); err != nil || string(got) != "w1 10.0.1.1 worker "+after+"\n" {
		t.Errorf("%q, %v", got, err)
	}
	err := upgrade.Each("seq 100000; echo the reason; exit 3", after)(t.Context(), worker)
	if err == nil || !strings.Contains(err.Error(), "the reason") || !strings.Contains(err.Error(), "exit status 3") || len(err.Error()) > 5000 {
		t.Errorf("%.200v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := upgrade.Each("true", after)(ctx, worker); err == nil {
		t.Error("a command ran after the end")
	}
}

func TestVersionOf(t *testing.T) {
	r := newRemote(t)
	if got, err := upgrade.VersionOf(t.Context(), r.path); err != nil || got != before {
		t.Errorf("%q, %v", got, err)
	}
	other := r.write(filepath.Join(r.dir, "other"), "#!/bin/sh\necho something else\n")
	if got, err := upgrade.VersionOf(t.Context(), other); err == nil {
		t.Errorf("another program has version %q", got)
	}
}
