package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestDocumentsNameCommandsThatExist: the commands of Kontiki in the documents, in blocks and in the text, and their flags are in docs/commands.md,
// which is made from the program. What follows `kontiki kubectl` is kubectl's own.
func TestDocumentsNameCommandsThatExist(t *testing.T) {
	reference := commandsOf(t, "../../docs/commands.md")
	checked := 0
	for _, path := range documents(t) {
		if filepath.Base(path) == "commands.md" {
			continue
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range quoted(string(data)) {
			for _, words := range invocations(line) {
				checked++
				if fault := reference.check(words); fault != "" {
					t.Errorf("%s: %q: %s", path, strings.Join(words, " "), fault)
				}
			}
		}
	}
	if checked < 200 {
		t.Errorf("found only %d commands in the documents", checked)
	}
}

func TestWrongCommandsAreFound(t *testing.T) {
	reference := commandsOf(t, "../../docs/commands.md")
	for _, c := range []struct {
		line string
		ok   bool
	}{
		{"host-1# kontiki server --join host-2:6444 --token K10...   # --nonsense", true},
		{"for p in $(kontiki kubectl get pods --any); do kontiki why $p -n shop; done", true},
		{`kontiki kubectl patch x -p '{"a": "; kontiki nonsense"}'`, true},
		{"$ kontiki dev --detach && kontiki cluster status -o json", true},
		{"kontiki nonsense", false},
		{"kontiki cluster nonsense", false},
		{"kontiki status --nonsense=1", false},
		{"kontiki snapshot save FILE -x", false},
	} {
		found := invocations(c.line)
		if len(found) == 0 {
			t.Errorf("%q: no command was found", c.line)
		}
		ok := true
		for _, words := range found {
			ok = ok && reference.check(words) == ""
		}
		if ok != c.ok {
			t.Errorf("%q: accepted is %v, not %v (%q)", c.line, ok, c.ok, found)
		}
	}
}

// documents returns the paths of README.md and of all documents in docs.
func documents(t *testing.T) []string {
	t.Helper()
	paths := []string{"../../README.md"}
	for _, pattern := range []string{"../../docs/*.md", "../../docs/*/*.md"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, found...)
	}
	if len(paths) < 25 {
		t.Fatalf("found only %d documents", len(paths))
	}
	return paths
}

// commands has the flags of each command, by the command's words without "kontiki".
type commands map[string]map[string]bool

func commandsOf(t *testing.T, path string) commands {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	all := commands{"": {"--help": true, "-h": true}}
	flag := regexp.MustCompile(`^ +(?:(-\w), )?(--[\w-]+)`)
	var at map[string]bool
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "## kontiki "); ok {
			at = map[string]bool{}
			all[name] = at
		} else if m := flag.FindStringSubmatch(" " + line); m != nil && at != nil {
			at[m[1]], at[m[2]] = true, true
		}
	}
	if len(all) < 30 {
		t.Fatalf("%s has only %d commands", path, len(all))
	}
	return all
}

// check says what is wrong with a command's words, without "kontiki"; it is empty if nothing is.
func (all commands) check(words []string) string {
	name, rest := "", words
	for len(rest) > 0 {
		next := strings.TrimSpace(name + " " + rest[0])
		if _, ok := all[next]; !ok {
			break
		}
		name, rest = next, rest[1:]
	}
	if name == "kubectl" {
		return ""
	}
	for i, word := range rest {
		switch {
		case strings.HasPrefix(word, "-") && len(word) > 1:
			flag, _, _ := strings.Cut(word, "=")
			if !all[name][flag] {
				return "no flag " + flag
			}
		case i == 0 && all.group(name) && !strings.Contains(word, "$"):
			return "no command " + strings.TrimSpace(name+" "+word)
		}
	}
	return ""
}

func (all commands) group(name string) bool {
	for other := range all {
		if name == "" || strings.HasPrefix(other, name+" ") {
			return true
		}
	}
	return false
}

// quoted returns the lines of a document's blocks of code, with continued ones joined, and what stands in backticks in the text.
func quoted(text string) (lines []string) {
	span := regexp.MustCompile("`([^`]+)`")
	block, prose := false, strings.Builder{}
	for line := range strings.Lines(strings.ReplaceAll(text, "\\\n", " ")) {
		switch {
		case strings.HasPrefix(strings.TrimSpace(line), "```"):
			block = !block
		case block:
			lines = append(lines, line)
		default:
			prose.WriteString(strings.TrimSpace(line) + "\n")
		}
	}
	for _, m := range span.FindAllStringSubmatch(prose.String(), -1) {
		lines = append(lines, strings.ReplaceAll(m[1], "\n", " "))
	}
	return lines
}

// invocations returns the words that follow "kontiki" where it begins a command of a shell's line, perhaps after a prompt such as "host-1# ".
func invocations(line string) (found [][]string) {
	line = regexp.MustCompile(`^\s*(\$|[\w-]+#)\s`).ReplaceAllString(line, "")
	var words []string
	end := func() {
		for len(words) > 0 && (words[0] == "do" || words[0] == "then") {
			words = words[1:]
		}
		if len(words) > 1 && words[0] == "kontiki" {
			found = append(found, words[1:])
		}
		words = nil
	}
	word, quote := "", rune(0)
	next := func() {
		if word = strings.TrimRight(word, ","); word != "" {
			words = append(words, word)
		}
		word = ""
	}
	for _, r := range line {
		switch {
		case quote != 0:
			if r == quote {
				quote = 0
			}
			word += string(r)
		case r == '#' && word == "":
			next()
			end()
			return found
		case r == '\'' || r == '"':
			quote = r
			word += string(r)
		case strings.ContainsRune(";|&()", r):
			next()
			end()
		case strings.ContainsRune(" \t\n[]", r): // brackets: a synopsis
			next()
		default:
			word += string(r)
		}
	}
	next()
	end()
	return found
}
