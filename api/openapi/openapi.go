// Package openapi describes a table of resources in OpenAPI v3 (KEP-2896) and v2.
//
// The documents of the built-in resources are upstream's published ones, with the allowed values of fields added; the command gen writes
// them to the directory documents. What a table does not serve is cut out of them, so they follow the table.
package openapi

import (
	"bytes"
	"compress/gzip"
	"crypto/sha512"
	"embed"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"strings"
	"sync"

	openapi_v2 "github.com/google/gnostic-models/openapiv2"
	"google.golang.org/protobuf/proto"

	"github.com/kontiki/kontiki/api/registry"
)

// files has a gzipped document of version 3 for each group version, such as "api__v1.json.gz" and "apis__apps__v1.json.gz"; one of
// version 2, "v2.json.gz", also in protobuf, "v2.pb.gz"; and "paths.json", the paths of each document of version 3.
//
//go:embed documents
var files embed.FS

// PathsFile is the name of the file that names the paths of each document.
const PathsFile = "paths.json"

// Name returns the name of a group version's document, which is its path below /openapi/v3/: "api/v1", "apis/apps/v1".
func Name(kind *registry.Kind) string {
	if kind.Group == "" {
		return "api/" + kind.Version
	}
	return "apis/" + kind.Group + "/" + kind.Version
}

// FileName returns the name of the file with the document of that name.
func FileName(name string) string { return strings.ReplaceAll(name, "/", "__") + ".json.gz" }

// Documents describe one table. All bytes are gzipped, but for those of Index. Documents are immutable and safe for concurrent use.
type Documents struct {
	// Index is the answer to /openapi/v3.
	Index []byte
	// V3 has the documents of version 3 of upstream's resources, by name; Document has those of custom ones too.
	V3 map[string][]byte
	// custom make the documents of the group versions that have custom resources.
	custom map[string]func() ([]byte, error)
	// V2JSON and V2Proto return the document of version 2.
	V2JSON, V2Proto func() ([]byte, error)
}

// Of returns the documents of a table. serves says whether the table serves a path of upstream's, with "{namespace}" and "{name}" in it.
func Of(table *registry.Table, serves func(path string) bool) (*Documents, error) {
	var pathsOf map[string][]string
	text, err := files.ReadFile(path.Join("documents", PathsFile))
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &pathsOf); err != nil {
		return nil, fmt.Errorf("%s: %w", PathsFile, err)
	}
	d := &Documents{V3: map[string][]byte{}}
	whole := true
	for _, kind := range table.Kinds() {
		name := Name(kind)
		if _, done := d.V3[name]; done || pathsOf[name] == nil {
			continue
		}
		document, err := read(FileName(name))
		if err != nil {
			return nil, err
		}
		if !all(pathsOf[name], serves) {
			whole = false
			if document, err = cutPacked(document, serves); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
		}
		d.V3[name] = document
	}
	hashes := map[string]string{}
	for name, document := range d.V3 {
		hashes[name] = fmt.Sprintf("%X", sha512.Sum512(document))
	}
	custom := customKinds(table)
	d.custom = map[string]func() ([]byte, error){}
	for name, kinds := range custom {
		hashes[name] = identity(hashes[name], kinds)
		d.custom[name] = sync.OnceValues(func() ([]byte, error) { return extended(d.V3[name], kinds) })
	}
	if d.Index, err = index(hashes); err != nil {
		return nil, err
	}
	d.V2JSON = func() ([]byte, error) { return read("v2.json.gz") }
	d.V2Proto = func() ([]byte, error) { return read("v2.pb.gz") }
	if !whole || len(d.V3) < len(pathsOf) {
		d.V2JSON = sync.OnceValues(func() ([]byte, error) {
			document, err := read("v2.json.gz")
			if err != nil {
				return nil, err
			}
			return cutPacked(document, serves)
		})
		d.V2Proto = sync.OnceValues(func() ([]byte, error) {
			document, err := d.V2JSON()
			if err != nil {
				return nil, err
			}
			if document, err = Unpack(document); err != nil {
				return nil, err
			}
			if document, err = Proto(document); err != nil {
				return nil, err
			}
			return Pack(document)
		})
	}
	if len(custom) > 0 {
		d.extendV2(custom)
	}
	return d, nil
}

// Document returns the document of version 3 with a name; ok is false if there is none.
func (d *Documents) Document(name string) (document []byte, ok bool, err error) {
	if made, ok := d.custom[name]; ok {
		document, err = made()
		return document, true, err
	}
	document, ok = d.V3[name]
	return document, ok, nil
}

func read(file string) ([]byte, error) { return files.ReadFile(path.Join("documents", file)) }

func all(paths []string, serves func(string) bool) bool {
	for _, p := range paths {
		if !serves(p) {
			return false
		}
	}
	return true
}

func index(hashes map[string]string) ([]byte, error) {
	type entry struct {
		ServerRelativeURL string `json:"serverRelativeURL"`
	}
	paths := map[string]entry{}
	for name, hash := range hashes {
		paths[name] = entry{fmt.Sprintf("/openapi/v3/%s?hash=%s", name, hash)}
	}
	return json.Marshal(map[string]any{"paths": paths})
}

func cutPacked(document []byte, serves func(string) bool) ([]byte, error) {
	document, err := Unpack(document)
	if err != nil {
		return nil, err
	}
	if document, _, err = Cut(document, serves, nil); err != nil {
		return nil, err
	}
	return Pack(document)
}

// Proto returns a JSON document of version 2 in protobuf.
func Proto(document []byte) ([]byte, error) {
	parsed, err := openapi_v2.ParseDocument(document)
	if err != nil {
		return nil, err
	}
	return proto.MarshalOptions{Deterministic: true}.Marshal(parsed)
}

// Pack compresses a document with gzip.
func Pack(document []byte) ([]byte, error) {
	var buf bytes.Buffer
	w, err := gzip.NewWriterLevel(&buf, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(document); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// Unpack reverts Pack.
func Unpack(document []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(document))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}
