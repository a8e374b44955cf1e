package reader_test

import (
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
)

// A block is a fenced block of a document. Its first line, of which a reader sees nothing, says what it is:
//
//	```sh                    commands, typed one after the other
//	```console               the same, each after "$ " or "HOST# ", with what it prints below it
//	```sh no-run: REASON     commands that no test can run
//	```yaml file=NAME        a file that the reader saves
//	```text, yaml, go, ...   something else: output, a diagram, a part of a configuration
//
// A comment `<!-- prepare: NAME -->`, or `<!-- prepare: HOST: NAME -->`, before a block calls the function NAME of prepare.sh, which brings about the case that
// the text tells of; the lines WORD=VALUE that it prints say what the reader writes in place of a WORD such as POD. A file=HOST:NAME is on that host.
type block struct {
	line     int // of the fence
	language string
	noRun    string // why it is not run
	file     string
	fileHost string
	prepare  []preparation
	text     string
	steps    []step
}

type preparation struct{ host, name string }

// A step is a command and what the document says of it.
type step struct {
	line    int
	host    string // where it is typed; empty: on this machine
	command string
	want    []string // what it prints, if the document shows that
	exits   int
	may     int  // how else it may exit
	repeat  bool // the document says to repeat it until it succeeds
}

func (b block) runs() bool { return (b.language == "sh" || b.language == "console") && b.noRun == "" }

var (
	fence     = regexp.MustCompile("^```(\\S*)(?: +(.*))?$")
	preparing = regexp.MustCompile(`^<!-- prepare: (?:([\w-]+): )?(\w+) -->$`)
	prompt    = regexp.MustCompile(`^(?:\$|([\w-]+)#) +(.*)$`)
	exitsWith = regexp.MustCompile(`#.*\bexits with (\d+)(.*)`)
	// typed is how a line begins that is a command, whatever the block is said to be.
	typed = regexp.MustCompile(`^(\$ |[\w-]+# +\w|(kontiki|kubectl|make|curl|systemctl|journalctl|apt) )`)
)

// blocks returns the blocks of a document.
func blocks(text string) (found []block, err error) {
	var prepare []preparation
	var lines []string
	var at *block
	n := 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimSuffix(line, "\n")
		switch m := fence.FindStringSubmatch(line); {
		case at == nil && m != nil:
			at = &block{line: n, language: m[1], prepare: prepare}
			prepare, lines = nil, nil
			if err := at.read(m[2]); err != nil {
				return nil, fmt.Errorf("line %d: %w", n, err)
			}
		case at != nil && line == "```":
			at.text = strings.Join(lines, "\n") + "\n"
			if at.steps, err = at.commands(lines); err != nil {
				return nil, err
			}
			found, at = append(found, *at), nil
		case at != nil:
			lines = append(lines, line)
		default:
			if m := preparing.FindStringSubmatch(line); m != nil {
				prepare = append(prepare, preparation{m[1], m[2]})
			}
		}
	}
	if at != nil {
		return nil, fmt.Errorf("line %d: the block does not end", at.line)
	}
	if prepare != nil {
		return nil, fmt.Errorf("no block follows what prepares one: %v", prepare)
	}
	return found, nil
}

func (b *block) read(info string) error {
	shell := b.language == "sh" || b.language == "console"
	reason, noRun := strings.CutPrefix(info, "no-run: ")
	file, named := strings.CutPrefix(info, "file=")
	switch {
	case b.language == "":
		return errors.New("say what the block is: sh, console, yaml, text, ...")
	case info == "":
	case noRun && shell && reason != "":
		b.noRun = reason
	case named && !shell:
		b.file = file
		if host, path, ok := strings.Cut(file, ":"); ok {
			b.fileHost, b.file = host, path
		}
	default:
		return fmt.Errorf("%s %q is not known", b.language, info)
	}
	return nil
}

// commands returns the steps of the block's lines.
func (b *block) commands(lines []string) (steps []step, err error) {
	if b.language == "text" {
		for i, line := range lines {
			if typed.MatchString(line) {
				return nil, fmt.Errorf("line %d: %q is a command, so the block is not text", b.line+1+i, line)
			}
		}
	}
	if !b.runs() {
		return nil, nil
	}
	begun := -1 // the first line of a command that has not ended
	for i, line := range lines {
		at := b.line + 1 + i
		m := prompt.FindStringSubmatch(line)
		switch {
		case begun >= 0:
			steps[len(steps)-1].command += "\n" + line
		case strings.TrimSpace(line) == "", m == nil && strings.HasPrefix(line, "# "):
			continue
		case m != nil:
			steps, begun = append(steps, step{line: at, host: m[1], command: m[2]}), i
		case b.language == "console":
			if len(steps) == 0 {
				return nil, fmt.Errorf("line %d: a console begins with a command, after \"$ \"", at)
			}
			last := &steps[len(steps)-1]
			last.want = append(last.want, line)
			continue
		default:
			steps, begun = append(steps, step{line: at, command: line}), i
		}
		if complete(steps[len(steps)-1].command) {
			begun = -1
		}
	}
	if begun >= 0 {
		return nil, fmt.Errorf("line %d: the command does not end: %s", b.line+1+begun, steps[len(steps)-1].command)
	}
	for i := range steps {
		if err := steps[i].expect(); err != nil {
			return nil, err
		}
	}
	return steps, nil
}

// complete says whether a shell would run the text, rather than read on.
func complete(command string) bool {
	return !strings.HasSuffix(command, "\\") && exec.Command("bash", "-n", "-c", command).Run() == nil
}

// expect takes from the text how a command ends: by its comment, or by an error that it prints.
func (s *step) expect() error {
	if m := exitsWith.FindStringSubmatch(s.command); m != nil {
		code := &s.exits
		if strings.HasPrefix(m[2], " if ") {
			code = &s.may
		}
		if _, err := fmt.Sscan(m[1], code); err != nil {
			return fmt.Errorf("line %d: %w", s.line, err)
		}
	}
	for _, line := range s.want {
		if strings.HasPrefix(line, "error: ") || strings.HasPrefix(line, "Error from server") {
			s.exits = 1
		}
	}
	_, comment, _ := strings.Cut(s.command, " # ")
	s.repeat = strings.Contains(comment, "repeat")
	return nil
}
