// Package reader_test does what the documents say, as a reader would: every block of commands is typed in a shell on a machine made of namespaces, and must end as
// the document says and print what it shows. What cannot be run here says why in the document, and is listed.
package reader_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
)

const root = "../.."

// sessions are machines, and the documents that are followed on each, in this order: later ones use what the first ones started.
var sessions = []struct {
	name      string
	documents []string
}{
	{"first", []string{"docs/getting-started.md"}},
	{"tutorials", []string{"docs/tutorials/storage.md", "docs/tutorials/autoscaling.md", "docs/tutorials/backup-and-restore.md", "docs/tutorials/upgrade.md"}},
	{"hosts", []string{"docs/tutorials/three-machines.md", "docs/operations.md"}},
	{"others", []string{"docs/troubleshooting.md", "docs/metrics.md", "docs/tracing.md", "docs/autoscaling.md", "docs/cis.md", "docs/workloads.md", "docs/audit.md", "README.md"}},
}

// TestReadersCanFollow: -run TestReadersCanFollow/machines/SESSION/DOCUMENT follows one document, such as hosts/three-machines.
func TestReadersCanFollow(t *testing.T) {
	all := documents(t)
	var commands atomic.Int64
	t.Run("machines", func(t *testing.T) {
		for _, session := range sessions {
			t.Run(session.name, func(t *testing.T) {
				t.Parallel()
				m := newMachine(t, session.name)
				for _, name := range session.documents {
					if !t.Run(filepath.Base(name), func(t *testing.T) { follow(t, m, all[name], name, &commands) }) {
						showLogs(t, m)
						return // what the next ones need may be missing
					}
				}
			})
		}
	})
	followed := map[string]bool{}
	for _, session := range sessions {
		for _, name := range session.documents {
			followed[name] = true
		}
	}
	var notRun []string
	for name, blocks := range all {
		for _, b := range blocks {
			if b.noRun != "" {
				notRun = append(notRun, fmt.Sprintf("%s:%d: %s", name, b.line, b.noRun))
			}
			if b.runs() && !followed[name] {
				t.Errorf("%s:%d: no session runs this block: add the document to one, or say in the block why it is not run", name, b.line)
			}
		}
	}
	slices.Sort(notRun)
	t.Logf("ran %d commands of %d documents; not run are %d blocks:\n%s", commands.Load(), len(followed), len(notRun), strings.Join(notRun, "\n"))
}

// follow does what a document says, and counts the commands. What is typed on other hosts is typed on machines that the document has for itself.
func follow(t *testing.T, m *machine, document []block, name string, commands *atomic.Int64) {
	r := &reader{names: map[string]string{}, words: map[string]string{}}
	shells := map[string]*shell{"": newShell(t, m, r)}
	on := func(host string) *shell {
		if shells[host] == nil {
			shells[host] = newShell(t, newHost(t, m, host), r)
		}
		return shells[host]
	}
	for _, b := range document {
		if b.file != "" {
			// In the shell, for its folder and its file system.
			save := fmt.Sprintf("cat > %q <<'end-of-file'\n%send-of-file", b.file, r.typed(b.text))
			if out, code, err := on(b.fileHost).run(save, nil); err != nil || code != 0 {
				t.Fatalf("%s:%d: %v, exit code %d\n%s", name, b.line, err, code, out)
			}
		}
		for _, p := range b.prepare {
			if err := on(p.host).prepare(p.name); err != nil {
				t.Fatalf("%s:%d: %v", name, b.line, err)
			}
		}
		for _, step := range b.steps {
			if err := on(step.host).follow(step); err != nil {
				t.Fatalf("%s:%d: %v", name, step.line, err)
			}
			commands.Add(1)
		}
	}
}

// documents returns the blocks of all documents, by their paths in the repository.
func documents(t *testing.T) map[string][]block {
	t.Helper()
	all := map[string][]block{}
	for _, pattern := range []string{"README.md", "docs/*.md", "docs/*/*.md"} {
		paths, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			name, err := filepath.Rel(root, path)
			if err != nil {
				t.Fatal(err)
			}
			if name == "docs/commands.md" { // made from the commands; their examples are checked where they stand
				continue
			}
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if all[name], err = blocks(string(text)); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
	}
	return all
}

// showLogs shows the ends of the logs of the machine's development cluster.
func showLogs(t *testing.T, m *machine) {
	s := newShell(t, m, &reader{})
	out, _, err := s.run("tail -n 5 /var/lib/kontiki/dev/logs/*-?.log", nil)
	t.Logf("%v\n%s", err, out)
}
