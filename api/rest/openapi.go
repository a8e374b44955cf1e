package rest

import (
	"bytes"
	"compress/gzip"
	"crypto/sha512"
	"embed"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// openAPIFiles are upstream's published OpenAPI v3 documents, reduced to the paths that are served, gzipped, one per group version:
// "api__v1.json.gz", "apis__apps__v1.json.gz"; and OpenAPI v2 as JSON and protobuf, "v2.json.gz" and "v2.pb.gz", which kubectl
// falls back to.
//
//go:embed openapi/*.gz
var openAPIFiles embed.FS

// openAPI serves OpenAPI v3 (KEP-2896). The documents stay compressed in memory and are sent compressed to clients that accept
// gzip, which all do.
type openAPI struct {
	index     []byte
	v2        map[string][]byte // by media type
	documents map[string][]byte // by path under /openapi/v3/
}

func newOpenAPI() (*openAPI, error) {
	entries, err := openAPIFiles.ReadDir("openapi")
	if err != nil {
		return nil, err
	}
	type entry struct {
		ServerRelativeURL string `json:"serverRelativeURL"`
	}
	o := &openAPI{documents: map[string][]byte{}, v2: map[string][]byte{}}
	index := map[string]map[string]entry{"paths": {}}
	for _, file := range entries {
		data, err := openAPIFiles.ReadFile(path.Join("openapi", file.Name()))
		if err != nil {
			return nil, err
		}
		switch file.Name() {
		case "v2.json.gz":
			o.v2[typeJSON] = data
			continue
		case "v2.pb.gz":
			o.v2[typeOpenAPIv2] = data
			continue
		}
		name := strings.ReplaceAll(strings.TrimSuffix(file.Name(), ".json.gz"), "__", "/")
		o.documents[name] = data
		index["paths"][name] = entry{fmt.Sprintf("/openapi/v3/%s?hash=%X", name, sha512.Sum512(data))}
	}
	o.index, err = json.Marshal(index)
	return o, err
}

// The media type of OpenAPI v2 in protobuf, and its older name, which clients request but which is not valid in a response.
const (
	typeOpenAPIv2      = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
	askedTypeOpenAPIv2 = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
)

// serveV2 serves /openapi/v2.
func (o *openAPI) serveV2(w http.ResponseWriter, r *http.Request) {
	contentType := typeJSON
	if accept := r.Header.Get("Accept"); strings.Contains(accept, typeOpenAPIv2) || strings.Contains(accept, askedTypeOpenAPIv2) {
		contentType = typeOpenAPIv2
	}
	w.Header().Set("Content-Type", contentType)
	o.send(w, r, o.v2[contentType])
}

func (o *openAPI) serve(w http.ResponseWriter, r *http.Request) {
	name := strings.Trim(strings.TrimPrefix(r.URL.Path, "/openapi/v3"), "/")
	if name == "" {
		w.Header().Set("Content-Type", typeJSON)
		w.Write(o.index)
		return
	}
	document, ok := o.documents[name]
	if !ok {
		writeError(w, r, noSuchPath(r))
		return
	}
	w.Header().Set("Content-Type", typeJSON)
	if r.URL.Query().Get("hash") != "" {
		w.Header().Set("Cache-Control", "public, immutable")
	}
	o.send(w, r, document)
}

// send sends a compressed document, decompressing it only for clients that do not accept gzip.
func (o *openAPI) send(w http.ResponseWriter, r *http.Request, document []byte) {
	w.Header().Set("Vary", "Accept, Accept-Encoding")
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		w.Header().Set("Content-Encoding", "gzip")
		w.Write(document)
		return
	}
	plain, err := gzip.NewReader(bytes.NewReader(document))
	if err != nil {
		writeError(w, r, apierrors.NewInternalError(err))
		return
	}
	io.Copy(w, plain) // an error means that the client has disconnected
}
