package server

import (
	"go/parser"
	"go/token"
	"os"
	"path"
	"slices"
	"strconv"
	"testing"
)

// A controller that is implemented but never started is easily missed: events pile up, say, and nothing fails.
func TestEveryControllerIsRun(t *testing.T) {
	var imported []string
	for _, source := range []string{"duties.go", "controllers.go", "extensions.go", "autoscale.go", "advice.go"} {
		file, err := parser.ParseFile(token.NewFileSet(), source, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range file.Imports {
			name, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			imported = append(imported, name)
		}
	}
	folders, err := os.ReadDir("../../../controller")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, folder := range folders {
		// These packages are shared by controllers, or are for their tests.
		if !folder.IsDir() || slices.Contains([]string{"controllertest", "history", "owned", "pods"}, folder.Name()) {
			continue
		}
		found++
		if !slices.Contains(imported, path.Join("github.com/kontiki/kontiki/controller", folder.Name())) {
			t.Errorf("controller/%s is not run", folder.Name())
		}
	}
	if found < 9 {
		t.Errorf("only %d controllers found", found)
	}
}
