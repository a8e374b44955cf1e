package apply

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
)

// maxManifest limits the size of one file.
const maxManifest = 64 << 20

// load reads manifests: YAML or JSON files, directories of them (not recursively), and standard input for "-". Lists are expanded.
func load(files []string, in io.Reader) ([]*unstructured.Unstructured, error) {
	var objects []*unstructured.Unstructured
	read := func(name string, r io.Reader) error {
		found, err := decode(r)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		objects = append(objects, found...)
		return nil
	}
	for _, file := range files {
		if file == "-" {
			if err := read("standard input", in); err != nil {
				return nil, err
			}
			continue
		}
		paths, err := expand(file)
		if err != nil {
			return nil, err
		}
		for _, path := range paths {
			data, err := os.ReadFile(path)
			if err != nil {
				return nil, err
			}
			if err := read(path, bytes.NewReader(data)); err != nil {
				return nil, err
			}
		}
	}
	if len(objects) == 0 {
		return nil, errors.New("no objects in the manifests")
	}
	return objects, nil
}

// expand returns a file itself, or the manifests in a directory, sorted by name.
func expand(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, e := range entries {
		if ext := strings.ToLower(filepath.Ext(e.Name())); !e.IsDir() && slices.Contains([]string{".yaml", ".yml", ".json"}, ext) {
			paths = append(paths, filepath.Join(path, e.Name()))
		}
	}
	if len(paths) == 0 {
		return nil, fmt.Errorf("%s: no .yaml, .yml or .json files in the directory", path)
	}
	return paths, nil
}

func decode(r io.Reader) ([]*unstructured.Unstructured, error) {
	documents := yaml.NewYAMLReader(bufio.NewReader(io.LimitReader(r, maxManifest)))
	var objects []*unstructured.Unstructured
	for n := 1; ; n++ {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", n, err)
		}
		for _, one := range values(document) {
			var content map[string]any
			// Strict, because one of two duplicate keys would be lost.
			if err := yaml.UnmarshalStrict(one, &content); err != nil {
				return nil, fmt.Errorf("document %d: %w", n, err)
			}
			if len(content) == 0 {
				continue
			}
			if objects, err = flatten(objects, &unstructured.Unstructured{Object: content}); err != nil {
				return nil, fmt.Errorf("document %d: %w", n, err)
			}
		}
	}
}

// values returns the JSON values of a document, which may contain several, or the document itself if it is YAML.
func values(document []byte) [][]byte {
	var found [][]byte
	for decoder := json.NewDecoder(bytes.NewReader(document)); ; {
		var one json.RawMessage
		switch err := decoder.Decode(&one); {
		case errors.Is(err, io.EOF):
			return found
		case err != nil && len(found) == 0:
			return [][]byte{document}
		case err != nil:
			return append(found, document[decoder.InputOffset():]) // its error will be the better one
		}
		found = append(found, one)
	}
}

// flatten appends an object, or the items of a list. Items of a typed list, such as ConfigMapList, may omit apiVersion and kind.
func flatten(objects []*unstructured.Unstructured, object *unstructured.Unstructured) ([]*unstructured.Unstructured, error) {
	kind := object.GetKind()
	if kind == "" || object.GetAPIVersion() == "" {
		return nil, errors.New("apiVersion and kind must be given")
	}
	items, isList := object.Object["items"]
	if !isList && !(kind == "List" && object.GetAPIVersion() == "v1") {
		return append(objects, object), nil
	}
	list, ok := items.([]any)
	if !ok && items != nil {
		return nil, fmt.Errorf("%s: items must be a list", kind)
	}
	for i, item := range list {
		content, ok := item.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("%s: items[%d] is not an object", kind, i)
		}
		one := &unstructured.Unstructured{Object: content}
		if itemKind := strings.TrimSuffix(kind, "List"); itemKind != "" && one.GetKind() == "" && one.GetAPIVersion() == "" {
			one.SetKind(itemKind)
			one.SetAPIVersion(object.GetAPIVersion())
		}
		var err error
		if objects, err = flatten(objects, one); err != nil {
			return nil, fmt.Errorf("%s: items[%d]: %w", kind, i, err)
		}
	}
	return objects, nil
}
