package pods

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTheMapNamesEveryFile: the package comment says which file holds what.
func TestTheMapNamesEveryFile(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob("*.go")
	if err != nil || len(names) < 10 {
		t.Fatalf("found the files %q: %v", names, err)
	}
	text := strings.Map(func(r rune) rune {
		if strings.ContainsRune(",:;", r) {
			return ' '
		}
		return r
	}, string(doc))
	named := map[string]bool{}
	for _, word := range strings.Fields(text) {
		if strings.HasSuffix(word, ".go") {
			named[word] = true
		}
	}
	for _, name := range names {
		if !named[name] && name != "doc.go" && !strings.HasSuffix(name, "_test.go") {
			t.Errorf("doc.go does not name %s", name)
		}
		delete(named, name)
	}
	for name := range named {
		t.Errorf("doc.go names %s, which does not exist", name)
	}
}
