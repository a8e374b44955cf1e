package openapi

import (
	"encoding/json"
	"regexp"
	"strings"
)

var reference = regexp.MustCompile(`"#/(?:components/schemas|definitions)/([^"]+)"`)

// Schemas are the schemas of a document, by name.
type Schemas map[string]json.RawMessage

// Cut removes the paths that are not served from a document of OpenAPI v3 or v2, and the schemas that no path needs then. edit, if not
// nil, may change the schemas that are left. It returns the document and its paths.
func Cut(document []byte, serves func(path string) bool, edit func(Schemas) error) (small []byte, left []string, err error) {
	var doc, components map[string]json.RawMessage
	if err := json.Unmarshal(document, &doc); err != nil {
		return nil, nil, err
	}
	var paths map[string]json.RawMessage
	if err := json.Unmarshal(doc["paths"], &paths); err != nil {
		return nil, nil, err
	}
	for path := range paths {
		if strings.Contains(path, "/watch/") || !serves(path) {
			delete(paths, path)
			continue
		}
		left = append(left, path)
	}
	if doc["paths"], err = json.Marshal(paths); err != nil {
		return nil, nil, err
	}
	// Version 3 has the schemas in components/schemas, version 2 in definitions.
	holder, name := doc, "definitions"
	if _, ok := doc["components"]; ok {
		if err := json.Unmarshal(doc["components"], &components); err != nil {
			return nil, nil, err
		}
		holder, name = components, "schemas"
	}
	var schemas Schemas
	if err := json.Unmarshal(holder[name], &schemas); err != nil {
		return nil, nil, err
	}
	schemas = reachable(doc["paths"], schemas)
	if edit != nil {
		if err := edit(schemas); err != nil {
			return nil, nil, err
		}
	}
	if holder[name], err = json.Marshal(schemas); err != nil {
		return nil, nil, err
	}
	if components != nil {
		if doc["components"], err = json.Marshal(components); err != nil {
			return nil, nil, err
		}
	}
	small, err = json.Marshal(doc)
	return small, left, err
}

// reachable returns the schemas that the paths need.
func reachable(paths json.RawMessage, schemas Schemas) Schemas {
	kept := Schemas{}
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
