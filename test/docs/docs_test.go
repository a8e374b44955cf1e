// Package docs_test checks the documents: the tests, commands, flags, files and headings that they name exist.
package docs_test

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestDocumentsNameTestsThatExist(t *testing.T) {
	defined := map[string]bool{}
	definition := regexp.MustCompile(`(?m)^func ((?:Test|Benchmark|Fuzz)\w+)\(|(?:Name|name): *"(Test\w+)"`)
	named := map[string][]string{}
	name := regexp.MustCompile("`(Test[A-Z]\\w+)`|(?m:^```.* (Test[A-Z]\\w+))") // or the reason why a block is not run
	err := filepath.WalkDir("../..", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (entry.Name() == "node_modules" || strings.HasPrefix(entry.Name(), ".") && entry.Name() != ".." && entry.Name() != "../.."):
			return fs.SkipDir
		case strings.HasSuffix(path, ".go"):
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for _, m := range definition.FindAllStringSubmatch(string(data), -1) {
				defined[m[1]+m[2]] = true
			}
		case strings.HasSuffix(path, ".md"):
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for _, m := range name.FindAllStringSubmatch(string(data), -1) {
				if test := m[1] + m[2]; !slices.Contains(named[test], path) {
					named[test] = append(named[test], path)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(named) < 50 || len(defined) < 500 {
		t.Fatalf("found only %d names in documents and %d tests", len(named), len(defined))
	}
	for test, documents := range named {
		if !defined[test] {
			t.Errorf("%v: there is no %s", documents, test)
		}
	}
}

// TestBugPatchesApply: test/robustness/bugs/again.sh applies these patches to the tree, so they must be kept up to date.
func TestBugPatchesApply(t *testing.T) {
	patches, err := filepath.Glob("../robustness/bugs/*.patch")
	if err != nil || len(patches) == 0 {
		t.Fatalf("no patches: %v", err)
	}
	for _, patch := range patches {
		apply := exec.Command("git", "apply", "--unidiff-zero", "--check", "test/robustness/bugs/"+filepath.Base(patch))
		apply.Dir = "../.."
		if out, err := apply.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", filepath.Base(patch), err, out)
		}
	}
}
