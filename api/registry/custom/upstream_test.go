package custom

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// tableWriter is added to upstream's package, in which the loop over the table is replaced by calls of it.
const tableWriter = `package cel

import (
	"encoding/json"
	"os"

	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
)

// wide returns a value in which numbers of 32 bits have 64, as those that are decoded from JSON.
func wide(value any) any {
	switch v := value.(type) {
	case float32:
		return float64(v)
	case map[string]any:
		for name := range v {
			v[name] = wide(v[name])
		}
	case []any:
		for i := range v {
			v[i] = wide(v[i])
		}
	}
	return value
}

// schemaOf returns what a definition says, or nil.
func schemaOf(s *schema.Structural) any {
	if s == nil {
		return nil
	}
	return s.ToKubeOpenAPI()
}

// writeEntry appends an entry of a test's table to a file; an empty one for what JSON does not have, as NaN.
func writeEntry(test string, entry map[string]any) {
	text, err := json.Marshal(map[string]any{"Test": test, "Entry": entry})
	if err != nil {
		text, _ = json.Marshal(map[string]any{"Test": test, "Entry": map[string]any{}})
	}
	f, err := os.OpenFile(os.Getenv("TABLE"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	defer f.Close()
	if _, err := f.Write(append(text, '\n')); err != nil {
		panic(err)
	}
}
`

// upstreamsTables returns tables of upstream's tests of a file, by running the tests with loops that write what is asked for of each entry, an
// expression in which $ is the entry. Nothing of the tables is copied here.
func upstreamsTables(t *testing.T, file string, entries map[string]string) map[string][]json.RawMessage {
	t.Helper()
	dir := t.TempDir()
	output := func(arguments ...string) string {
		t.Helper()
		cmd := exec.Command("go", arguments...)
		cmd.Env = append(os.Environ(), "TABLE="+filepath.Join(dir, "table"))
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("go %s: %v\n%s%s", arguments[0], err, out, stderr.Bytes())
		}
		return strings.TrimSpace(string(out))
	}
	write := func(name string, text []byte) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	module := output("list", "-m", "-f", "{{.Dir}}", "k8s.io/apiextensions-apiserver")
	source := filepath.Join(module, "pkg/apiserver/schema/cel", file)
	text, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	files := token.NewFileSet()
	parsed, err := parser.ParseFile(files, source, text, 0)
	if err != nil {
		t.Fatal(err)
	}
	rewritten, from, found := []byte(nil), 0, []string(nil)
	for _, d := range parsed.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok || entries[f.Name.Name] == "" {
			continue
		}
		for _, s := range f.Body.List {
			loop, ok := s.(*ast.RangeStmt)
			if !ok {
				continue
			}
			entry := "tests[" + loop.Key.(*ast.Ident).Name + "]"
			if loop.Value != nil {
				entry = loop.Value.(*ast.Ident).Name
			}
			at := files.Position(loop.Body.Lbrace).Offset + 1
			rewritten = append(rewritten, text[from:at]...)
			rewritten = fmt.Appendf(rewritten, "\nwriteEntry(%q, %s)\nif true { continue }\n", f.Name.Name, strings.ReplaceAll(entries[f.Name.Name], "$", entry))
			from, found = at, append(found, f.Name.Name)
		}
	}
	rewritten = append(rewritten, text[from:]...)
	if len(found) != len(entries) {
		t.Fatalf("of the tests of upstream's %s, these have a loop over their table: %v", file, found)
	}
	// Files of the module cache cannot be replaced, so the test runs in a copy of the module.
	changed := filepath.Join(dir, "module")
	if err := os.CopyFS(changed, os.DirFS(module)); err != nil {
		t.Fatal(err)
	}
	within := filepath.Join(changed, "pkg/apiserver/schema/cel")
	for name, text := range map[string][]byte{file: rewritten, "table_writer_test.go": []byte(tableWriter)} {
		path := filepath.Join(within, name)
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	own := filepath.Dir(output("env", "GOMOD"))
	for _, name := range []string{"go.mod", "go.sum"} {
		text, err := os.ReadFile(filepath.Join(own, name))
		if err != nil {
			t.Fatal(err)
		}
		write(name, text)
	}
	output("mod", "edit", "-replace=k8s.io/apiextensions-apiserver="+changed, filepath.Join(dir, "go.mod"))
	output("test", "-mod=mod", "-modfile="+filepath.Join(dir, "go.mod"), "-vet=off", "-count=1", "-run", "^("+strings.Join(found, "|")+")$",
		"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel")
	lines, err := os.ReadFile(filepath.Join(dir, "table"))
	if err != nil {
		t.Fatal(err)
	}
	tables := map[string][]json.RawMessage{}
	for line := range bytes.Lines(lines) {
		var l struct {
			Test  string
			Entry json.RawMessage
		}
		if err := json.Unmarshal(line, &l); err != nil {
			t.Fatal(err)
		}
		tables[l.Test] = append(tables[l.Test], l.Entry)
	}
	return tables
}
