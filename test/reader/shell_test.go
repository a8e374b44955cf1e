package reader_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// limit is for a command, and for what is repeated until it succeeds.
const limit = 2 * time.Minute

// A shell runs the commands of one document.
type shell struct {
	pid     int
	stdin   io.Writer
	lines   chan string // what it prints; closed when it ended
	counter int
	reader  *reader
}

// A reader remembers what he writes in place of what stands in a document, on whatever host.
type reader struct {
	names map[string]string // pods
	words map[string]string // words such as POD
	token string            // what `kontiki token create` printed last, for "K10..."
}

func newShell(t *testing.T, m *machine, r *reader) *shell {
	t.Helper()
	cmd := m.shell()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = in, in
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	in.Close()
	s := &shell{pid: cmd.Process.Pid, stdin: stdin, lines: make(chan string, 1024), reader: r}
	go func() {
		defer close(s.lines)
		for scanner := bufio.NewScanner(out); scanner.Scan(); {
			s.lines <- scanner.Text()
		}
	}()
	t.Cleanup(func() {
		stdin.Close()
		cmd.Process.Kill()
		cmd.Wait()
		out.Close()
		for range s.lines {
		}
	})
	if out, code, err := s.run("shopt -s expand_aliases\n"+prepare, nil); err != nil || code != 0 {
		t.Fatalf("prepare.sh: %v, exit code %d\n%s", err, code, out)
	}
	return s
}

// run runs a command and returns what it printed, and its exit code. If enough says that what was printed so far suffices, the command is interrupted.
func (s *shell) run(command string, enough func(printed string) bool) (printed string, code int, err error) {
	s.counter++
	mark := fmt.Sprintf("end-of-command-%d-%d", os.Getpid(), s.counter)
	// An output that does not end with a new line is ended before the mark.
	if _, err := fmt.Fprintf(s.stdin, "{ %s\n} </dev/null; printf '\\n%s %%d\\n' $?\n", command, mark); err != nil {
		return "", 0, err
	}
	var out strings.Builder
	timeout := time.After(limit)
	for {
		select {
		case line, ok := <-s.lines:
			if !ok {
				return out.String(), 0, errors.New("the shell ended")
			}
			if rest, ok := strings.CutPrefix(line, mark+" "); ok {
				_, err := fmt.Sscan(rest, &code)
				return out.String(), code, err
			}
			out.WriteString(line + "\n")
			if enough != nil && enough(out.String()) {
				enough = nil
				s.interrupt()
			}
		case <-timeout:
			return out.String(), 0, fmt.Errorf("it did not end in %v", limit)
		}
	}
}

// interrupt sends SIGINT to the processes that the shell waits for.
func (s *shell) interrupt() {
	var all func(pid int) []int
	all = func(pid int) (below []int) {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", pid))
		if err != nil {
			return nil
		}
		for field := range strings.FieldsSeq(string(data)) {
			var child int
			if _, err := fmt.Sscan(field, &child); err == nil {
				below = append(append(below, child), all(child)...)
			}
		}
		return below
	}
	below := all(s.pid)
	if len(below) > 1 { // the first is the shell itself, which nsenter began
		for _, pid := range below[1:] {
			syscall.Kill(pid, syscall.SIGINT)
		}
	}
}

var (
	placeholder = regexp.MustCompile(`(\$?)\b[A-Z][A-Z0-9]*\b`)
	assignment  = regexp.MustCompile(`^([A-Z][A-Z0-9]*)=(.*)$`)
)

// prepare calls a function of prepare.sh.
func (s *shell) prepare(name string) error {
	out, code, err := s.run(name, nil)
	if err != nil || code != 0 {
		return fmt.Errorf("prepare %s: %v, exit code %d\n%s", name, err, code, out)
	}
	for _, line := range filled(out) {
		if m := assignment.FindStringSubmatch(line); m != nil {
			s.reader.words[m[1]] = m[2]
		}
	}
	return nil
}

// typed is what a reader types: with the names of his own pods, and something in place of words that stand for it.
func (r *reader) typed(command string) string {
	command = podName.ReplaceAllStringFunc(command, func(name string) string {
		if mine := r.names[name]; mine != "" {
			return mine
		}
		return name
	})
	if r.token != "" {
		command = strings.ReplaceAll(command, "K10...", r.token)
	}
	return placeholder.ReplaceAllStringFunc(command, func(word string) string {
		if mine := r.words[word]; mine != "" {
			return mine
		}
		return word
	})
}

// follow does what a step says, and compares.
func (s *shell) follow(step step) error {
	command := s.reader.typed(step.command)
	var enough func(string) bool
	watches := strings.Contains(command, "--watch")
	if watches {
		enough = func(printed string) bool {
			return step.want == nil || compare(step.want, filled(printed), s.reader.names)
		}
	}
	for begun := time.Now(); ; {
		out, code, err := s.run(command, enough)
		switch {
		case err != nil:
			return fmt.Errorf("%s\n%w\n%s", command, err, out)
		case watches:
			return nil
		case code != step.exits && step.repeat && time.Since(begun) < limit:
			time.Sleep(200 * time.Millisecond) // what it waits for is in other processes
			continue
		case code != step.exits && !(code == step.may && code != 0):
			return fmt.Errorf("%s\nexit code %d, not %d\n%s", command, code, step.exits, out)
		case step.want != nil && !compare(step.want, filled(out), s.reader.names):
			return fmt.Errorf("%s\nthe document shows\n%s\nbut it printed\n%s", command, strings.Join(step.want, "\n"), out)
		}
		if strings.HasPrefix(out, "K10") {
			s.reader.token = strings.TrimSpace(out)
		}
		return nil
	}
}
