package upgrade

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
)

// SSH replaces programs by the administrator's own ssh: whatever it needs (keys, jump hosts, known hosts) is in its configuration. The file
// goes to its standard input, and is used only if its SHA-256 arrives too.
type SSH struct {
	// Command is ssh, with options; a shell splits it. User is whom it signs in as.
	Command, User string
	// File is the new program or, if Package is set, a Debian package.
	File    string
	Package bool
	// Path is where the program is on the hosts.
	Path string
	// Version is what the program must say of itself.
	Version string
}

// Replace implements Options.Replace.
func (s *SSH) Replace(ctx context.Context, h Host) error {
	if h.Address == "" || strings.HasPrefix(h.Address, "-") {
		return fmt.Errorf("the cluster knows no address of %s", h.Name)
	}
	file, err := os.Open(s.File)
	if err != nil {
		return err
	}
	defer file.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, file); err != nil {
		return fmt.Errorf("%s: %w", s.File, err)
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("%s: %w", s.File, err)
	}
	script := s.program(hex.EncodeToString(sum.Sum(nil)))
	if s.Package {
		script = s.debian(hex.EncodeToString(sum.Sum(nil)))
	}
	cmd := exec.CommandContext(ctx, "sh", "-c", `exec `+s.Command+` "$@"`, "sh", "-l", s.User, h.Address, script)
	cmd.Stdin = file
	return run(cmd)
}

// program is the script that replaces a program. The old one is kept beside it, and at every moment one of them is there.
func (s *SSH) program(sum string) string {
	return fmt.Sprintf(`set -eu
path=%s
new=$(mktemp "$path.XXXXXX")
trap 'rm -f "$new"' EXIT
cat > "$new"
echo "%s  $new" | sha256sum -c --status || { echo "the program did not arrive as it was sent" >&2; exit 1; }
chmod 755 "$new"
said=$("$new" --version) || { echo "the program does not run on this host" >&2; exit 1; }
case "$said" in *" "%s) ;; *) echo "the program says of itself: $said" >&2; exit 1;; esac
sync "$new"
ln -f "$path" "$path.previous"
mv -f "$new" "$path"
systemctl --no-block try-restart kontiki-server.service kontiki-master.service kontiki-agent.service
`, quote(s.Path), sum, quote(s.Version))
}

// debian is the script that installs a package, which starts what runs again.
func (s *SSH) debian(sum string) string {
	return fmt.Sprintf(`set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
chmod 755 "$dir"
cat > "$dir/kontiki.deb"
echo "%s  $dir/kontiki.deb" | sha256sum -c --status || { echo "the package did not arrive as it was sent" >&2; exit 1; }
DEBIAN_FRONTEND=noninteractive apt-get install -y -q --allow-downgrades -o DPkg::Lock::Timeout=60 "$dir/kontiki.deb"
`, sum)
}

// quote returns a word for a POSIX shell.
func quote(word string) string { return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'" }

// Each returns a function for Options.Replace that runs a command of the administrator's in a shell on this machine. It finds what it is about
// in its environment.
func Each(command, version string) func(ctx context.Context, h Host) error {
	return func(ctx context.Context, h Host) error {
		cmd := exec.CommandContext(ctx, "sh", "-c", command)
		cmd.Env = append(os.Environ(), "KONTIKI_HOST="+h.Name, "KONTIKI_ADDRESS="+h.Address, "KONTIKI_ROLE="+string(h.Role), "KONTIKI_VERSION="+version)
		return run(cmd)
	}
}

// mostOutput is how much of a command's output is shown, from its end, and killAfter how long a command may ignore that it should end.
const mostOutput, killAfter = 4 << 10, 5 * time.Second

// run runs a command. The error has the end of its output.
func run(cmd *exec.Cmd) error {
	var out tail
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = killAfter
	if err := cmd.Run(); err != nil {
		if text := strings.TrimSpace(out.end.String()); text != "" {
			return fmt.Errorf("%w:\n%s", err, text)
		}
		return err
	}
	return nil
}

// tail keeps the last bytes that are written to it.
type tail struct{ end bytes.Buffer }

func (t *tail) Write(b []byte) (int, error) {
	t.end.Write(b)
	if over := t.end.Len() - mostOutput; over > 0 {
		t.end.Next(over)
	}
	return len(b), nil
}

// VersionOf returns the version of a program, which must run on this machine.
func VersionOf(ctx context.Context, program string) (string, error) {
	out, err := exec.CommandContext(ctx, program, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("%s --version: %w", program, err)
	}
	fields := strings.Fields(string(out))
	if len(fields) != 3 || fields[0] != "kontiki" {
		return "", fmt.Errorf("%s --version says %.100q, which is not what kontiki says", program, out)
	}
	return fields[2], nil
}
