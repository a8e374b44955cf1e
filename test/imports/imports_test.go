// Package imports_test enforces who may import whom (docs/architecture.md, "The map").
package imports_test

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/kontiki/kontiki/"

// rule names the packages that a folder's packages may import of ours, and the dependencies that they must not have. Tests are
// exempt.
type rule struct {
	folder string // the first rule whose folder holds a package is its rule
	// may are our folders that may be imported, in addition to the folder itself.
	may []string
	// never are import path prefixes that must not be reached, not even through others.
	never []string
}

// serving are upstream's packages for serving APIs, and those of the programs that Kontiki replaces.
var serving = []string{
	"k8s.io/apiserver/pkg/server", "k8s.io/apiextensions-apiserver/pkg/apiserver", "k8s.io/kubernetes/pkg/controlplane",
	"k8s.io/kubernetes/pkg/controller", "k8s.io/kubernetes/pkg/scheduler", "k8s.io/kubernetes/pkg/kubelet", "k8s.io/kubernetes/pkg/proxy",
	"go.etcd.io/etcd",
}

// leaves are packages below those that may be reached all the same, since they reach nothing of the serving stack.
var leaves = []string{
	"k8s.io/kubernetes/pkg/controlplane/controller/legacytokentracking", // a constant, for the default roles
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema", "k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel", "k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel/model",
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting", "k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype",
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta", "k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning",
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation",                                          // of custom resources
	"k8s.io/apiserver/pkg/server/egressselector", "k8s.io/apiserver/pkg/server/egressselector/metrics", // of the validation of webhooks
}

const (
	raft       = "github.com/hashicorp/raft"
	containerd = "github.com/containerd/containerd/v2/client"
	kubernetes = "k8s.io/"
)

var rules = []rule{
	{"proto", nil, []string{kubernetes, raft}},
	{"internal/volumes", nil, append([]string{raft}, serving...)}, // shared by controllers, scheduler and workers
	{"internal/amount", nil, append([]string{raft}, serving...)},  // the same
	{"internal/wake", nil, append([]string{raft}, serving...)},    // the same
	{"internal", nil, []string{kubernetes, raft}},
	{"fsm", []string{"proto", "internal"}, []string{kubernetes, raft, "net/http", "crypto/rand", "math/rand", "google.golang.org/grpc"}},
	{"cluster/pki", []string{"internal"}, []string{kubernetes, raft, "google.golang.org/grpc"}},
	{"cluster/gossip", []string{"cluster/pki", "internal"}, []string{kubernetes, raft, module + "fsm", "google.golang.org/grpc"}},
	{"cluster/mtls", []string{"cluster/pki", "internal"}, []string{kubernetes, module + "fsm"}},
	{"cluster/identity", []string{"cluster/pki", "internal"}, []string{kubernetes, raft, module + "fsm", "google.golang.org/grpc"}},
	{"cluster/errclass", []string{"cluster/mtls", "internal"}, []string{kubernetes, module + "fsm"}},
	{"cluster/join", []string{"cluster/pki", "cluster/mtls", "cluster/errclass", "proto", "internal"}, []string{kubernetes, module + "fsm"}},
	{"cluster/worker", []string{"cluster/pki", "cluster/mtls", "cluster/errclass", "cluster/join", "cluster/gossip", "proto", "internal"}, []string{kubernetes, module + "fsm"}},
	{"cluster/raftfix", []string{"internal"}, []string{kubernetes, module + "fsm", "google.golang.org/grpc"}},
	{"cluster/storage", []string{"cluster/pki", "fsm", "internal"}, []string{kubernetes, "google.golang.org/grpc"}},
	{"cluster/consensus", []string{"cluster/errclass", "cluster/mtls", "cluster/raftfix", "cluster/storage", "fsm", "proto", "internal"}, []string{kubernetes, module + "cluster/join", module + "cluster/identity", module + "cluster/gossip"}},
	{"cluster/backup", []string{"cluster/errclass", "cluster/storage", "fsm", "proto", "internal"}, []string{kubernetes, module + "cluster/consensus", module + "cluster/join", module + "cluster/identity", module + "cluster/gossip"}},
	{"cluster", []string{"fsm", "proto", "internal"}, []string{kubernetes}},
	{"api", []string{"proto", "internal"}, append([]string{raft}, serving...)},
	{"controller", []string{"api/client", "internal"}, append([]string{raft, module + "api/rest", containerd}, serving...)},
	{"scheduler", []string{"api/client", "internal"}, append([]string{raft, module + "api/rest", containerd}, serving...)},
	{"node", []string{"proto", "internal"}, append([]string{raft}, serving...)},
	{"dashboard", []string{"internal"}, append([]string{raft, module + "api"}, serving...)},
	{"docs", nil, []string{kubernetes, raft}},
	{"client", []string{"proto"}, []string{raft, module + "fsm"}},
	{"cmd", []string{"api", "cluster", "controller", "scheduler", "node", "proto", "fsm", "internal", "dashboard", "docs"}, serving},
	{"examples", []string{"client", "proto"}, nil},
}

type pkg struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

func list(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps=false", "-json=ImportPath,Imports,Deps", module+"...")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %v\n%s", err, exit.Stderr)
		}
		t.Fatal(err)
	}
	var all []pkg
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// under reports whether one of our package paths is in a folder.
func under(path, folder string) bool {
	path = strings.TrimPrefix(path, module)
	return path == folder || strings.HasPrefix(path, folder+"/")
}

func TestFoldersImportOnlyWhatTheTableAllows(t *testing.T) {
	packages := list(t)
	if len(packages) < 20 {
		t.Fatalf("go list found only %d packages", len(packages))
	}
	for _, p := range packages {
		i := slices.IndexFunc(rules, func(r rule) bool { return under(p.ImportPath, r.folder) })
		if i < 0 {
			if !under(p.ImportPath, "test") {
				t.Errorf("%s is in no folder of the table", p.ImportPath)
			}
			continue
		}
		r := rules[i]
		for _, imported := range p.Imports {
			if !strings.HasPrefix(imported, module) || under(imported, r.folder) {
				continue
			}
			if !slices.ContainsFunc(r.may, func(folder string) bool { return under(imported, folder) }) {
				t.Errorf("%s imports %s: %s may import %v of ours", p.ImportPath, imported, r.folder, r.may)
			}
			if under(imported, "cmd") {
				t.Errorf("%s imports %s: nothing imports cmd", p.ImportPath, imported)
			}
		}
		for _, dep := range p.Deps {
			for _, never := range r.never {
				if slices.Contains(leaves, dep) {
					continue
				}
				if dep == never || strings.HasPrefix(dep, strings.TrimSuffix(never, "/")+"/") {
					t.Errorf("%s depends on %s: %s must never reach %s", p.ImportPath, dep, r.folder, never)
				}
			}
		}
	}
}

func TestOnlyTheRuntimeImportsContainerd(t *testing.T) {
	for _, p := range list(t) {
		if slices.Contains(p.Imports, containerd) && !under(p.ImportPath, "node/runtime/containerd") {
			t.Errorf("%s imports %s", p.ImportPath, containerd)
		}
	}
}

// TestInternalsAreForTests: consensus.Replica.Internals bypasses the package's interface, which only tests may do.
func TestInternalsAreForTests(t *testing.T) {
	used := 0
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && strings.HasPrefix(d.Name(), ".") && d.Name() != ".." && path != "../..":
			return filepath.SkipDir
		case d.IsDir() || filepath.Ext(path) != ".go":
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if !strings.Contains(string(text), ".Internals()") {
			return nil
		}
		if used++; !strings.HasSuffix(path, "_test.go") {
			t.Errorf("%s calls Internals, which is for tests", path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if used < 2 {
		t.Error("nothing calls Internals: the check no longer finds what it looks for")
	}
}
