// Command openapigen reduces upstream's published OpenAPI v3 documents (api/openapi-spec/v3 of the module k8s.io/kubernetes) to
// what is served, adds the allowed values of fields, and writes them gzipped to api/rest/openapi. `make generate` runs it.
package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	openapi_v2 "github.com/google/gnostic-models/openapiv2"
	"google.golang.org/protobuf/proto"

	"github.com/kontiki/kontiki/api/registry/builtin"
	"github.com/kontiki/kontiki/api/rest"
)

func main() {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "k8s.io/kubernetes").Output()
	if err != nil {
		log.Fatalf("find k8s.io/kubernetes: %v", err)
	}
	module := strings.TrimSpace(string(out))
	fields, err := readEnums(module)
	if err != nil {
		log.Fatalf("values of fields: %v", err)
	}
	source := filepath.Join(module, "api", "openapi-spec", "v3")
	done := map[string]bool{}
	for _, kind := range builtin.Kinds().Kinds() {
		name := "api__" + kind.Version
		if kind.Group != "" {
			name = "apis__" + kind.Group + "__" + kind.Version
		}
		if done[name] {
			continue
		}
		done[name] = true
		if err := cut(filepath.Join(source, name+"_openapi.json"), filepath.Join("openapi", name+".json.gz"), fields); err != nil {
			log.Fatalf("%s: %v", name, err)
		}
	}
	if err := cutV2(filepath.Join(filepath.Dir(source), "swagger.json"), "openapi", fields); err != nil {
		log.Fatalf("swagger.json: %v", err)
	}
}

var reference = regexp.MustCompile(`"#/(?:components/schemas|definitions)/([^"]+)"`)

func cut(from, to string, fields enums) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	var doc map[string]json.RawMessage
	if err := json.Unmarshal(data, &doc); err != nil {
		return err
	}
	var paths map[string]json.RawMessage
	if err := json.Unmarshal(doc["paths"], &paths); err != nil {
		return err
	}
	for path := range paths {
		if strings.Contains(path, "/watch/") || !rest.Serves(builtin.Kinds(), path) {
			delete(paths, path)
		}
	}
	var components map[string]map[string]json.RawMessage
	if err := json.Unmarshal(doc["components"], &components); err != nil {
		return err
	}
	if doc["paths"], err = json.Marshal(paths); err != nil {
		return err
	}
	components["schemas"] = reachable(doc["paths"], components["schemas"])
	if err := fields.add(components["schemas"]); err != nil {
		return err
	}
	if doc["components"], err = json.Marshal(components); err != nil {
		return err
	}
	small, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	fmt.Printf("%s: %d paths, %d schemas\n", filepath.Base(to), len(paths), len(components["schemas"]))
	return compress(to, small)
}

func compress(to string, data []byte) error {
	var buf bytes.Buffer
	w, err := gzip.NewWriterLevel(&buf, gzip.BestCompression)
	if err != nil {
		return err
	}
	if _, err := w.Write(data); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return os.WriteFile(to, buf.Bytes(), 0o644)
}

// cutV2 does the same for OpenAPI v2, in JSON and in the protobuf form that kubectl requests.
func cutV2(from, dir string, fields enums) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	var doc map[string]json.RawMessage
	if err := json.Unmarshal(data, &doc); err != nil {
		return err
	}
	var paths, definitions map[string]json.RawMessage
	if err := json.Unmarshal(doc["paths"], &paths); err != nil {
		return err
	}
	for path := range paths {
		if strings.Contains(path, "/watch/") || !rest.Serves(builtin.Kinds(), path) {
			delete(paths, path)
		}
	}
	if err := json.Unmarshal(doc["definitions"], &definitions); err != nil {
		return err
	}
	if doc["paths"], err = json.Marshal(paths); err != nil {
		return err
	}
	definitions = reachable(doc["paths"], definitions)
	if err := fields.add(definitions); err != nil {
		return err
	}
	if doc["definitions"], err = json.Marshal(definitions); err != nil {
		return err
	}
	small, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	parsed, err := openapi_v2.ParseDocument(small)
	if err != nil {
		return err
	}
	binary, err := proto.MarshalOptions{Deterministic: true}.Marshal(parsed)
	if err != nil {
		return err
	}
	fmt.Printf("v2: %d paths, %d definitions\n", len(paths), len(definitions))
	if err := compress(filepath.Join(dir, "v2.json.gz"), small); err != nil {
		return err
	}
	return compress(filepath.Join(dir, "v2.pb.gz"), binary)
}

// reachable returns the schemas that the paths need.
func reachable(paths json.RawMessage, schemas map[string]json.RawMessage) map[string]json.RawMessage {
	kept := map[string]json.RawMessage{}
	queue := []json.RawMessage{paths}
	for len(queue) > 0 {
		for _, match := range reference.FindAllSubmatch(queue[0], -1) {
			name := string(match[1])
			if _, ok := kept[name]; !ok {
				kept[name] = schemas[name]
				queue = append(queue, schemas[name])
			}
		}
		queue = queue[1:]
	}
	return kept
}
