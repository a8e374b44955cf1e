package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"
)

// TestLinksOfDocumentsLead: relative links lead to files that exist, and those with a fragment to a heading there.
func TestLinksOfDocumentsLead(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	checked := 0
	for _, path := range documents(t) {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(data), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			checked++
			file, fragment, _ := strings.Cut(m[1], "#")
			target := path
			if file != "" {
				target = filepath.Join(filepath.Dir(path), file)
			}
			if fragment == "" {
				if _, err := os.Stat(target); err != nil {
					t.Errorf("%s: %s: %v", path, m[1], err)
				}
				continue
			}
			there, err := os.ReadFile(target)
			if err != nil {
				t.Errorf("%s: %s: %v", path, m[1], err)
			} else if !anchors(string(there))[fragment] {
				t.Errorf("%s: %s: there is no such heading", path, m[1])
			}
		}
	}
	if checked < 100 {
		t.Errorf("found only %d links", checked)
	}
}

// anchors returns the fragments of a document's headings, as GitHub makes them.
func anchors(text string) map[string]bool {
	found, block := map[string]bool{}, false
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "```") {
			block = !block
		}
		if block || !strings.HasPrefix(line, "#") {
			continue
		}
		heading := strings.ToLower(strings.TrimSpace(strings.TrimLeft(line, "#")))
		found[strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
				return r
			}
			return -1
		}, heading)] = true
	}
	return found
}
