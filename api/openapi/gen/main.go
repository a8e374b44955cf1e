// Command gen reduces upstream's published OpenAPI documents (api/openapi-spec of the module k8s.io/kubernetes) to what is served, adds
// the allowed values of fields, and writes them gzipped to the directory documents. `make generate` runs it.
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/kontiki/kontiki/api/openapi"
	"github.com/kontiki/kontiki/api/registry/builtin"
	"github.com/kontiki/kontiki/api/rest"
)

const target = "documents"

func main() {
	if err := generate(); err != nil {
		log.Fatal(err)
	}
}

func generate() error {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "k8s.io/kubernetes").Output()
	if err != nil {
		return fmt.Errorf("find k8s.io/kubernetes: %w", err)
	}
	module := strings.TrimSpace(string(out))
	fields, err := readEnums(module)
	if err != nil {
		return fmt.Errorf("values of fields: %w", err)
	}
	table := builtin.Kinds()
	serves := func(path string) bool { return rest.Serves(table, path) }
	source := filepath.Join(module, "api", "openapi-spec")
	pathsOf := map[string][]string{}
	for _, kind := range table.Kinds() {
		name := openapi.Name(kind)
		if pathsOf[name] != nil {
			continue
		}
		var document []byte
		if kind.Group == metricsGroup {
			document, err = metricsDocument(source, kind.Version)
		} else {
			document, err = os.ReadFile(filepath.Join(source, "v3", strings.ReplaceAll(name, "/", "__")+"_openapi.json"))
		}
		if err != nil {
			return err
		}
		small, paths, err := openapi.Cut(document, serves, fields.add)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		slices.Sort(paths)
		pathsOf[name] = paths
		fmt.Printf("%s: %d paths\n", name, len(paths))
		if err := write(openapi.FileName(name), small); err != nil {
			return err
		}
	}
	text, err := json.MarshalIndent(pathsOf, "", " ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(target, openapi.PathsFile), append(text, '\n'), 0o644); err != nil {
		return err
	}
	return generateV2(filepath.Join(source, "swagger.json"), serves, fields)
}

// generateV2 writes the document of version 2, in JSON and in the protobuf form that kubectl requests.
func generateV2(from string, serves func(string) bool, fields enums) error {
	document, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	small, paths, err := openapi.Cut(document, serves, fields.add)
	if err != nil {
		return fmt.Errorf("version 2: %w", err)
	}
	fmt.Printf("version 2: %d paths\n", len(paths))
	binary, err := openapi.Proto(small)
	if err != nil {
		return fmt.Errorf("version 2: %w", err)
	}
	if err := write("v2.json.gz", small); err != nil {
		return err
	}
	return write("v2.pb.gz", binary)
}

func write(file string, document []byte) error {
	packed, err := openapi.Pack(document)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(target, file), packed, 0o644)
}
