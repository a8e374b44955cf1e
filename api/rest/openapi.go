package rest

import (
	"io"
	"strings"

	"bytes"
	"compress/gzip"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kontiki/kontiki/api/openapi"
	"github.com/kontiki/kontiki/api/registry"
)

// openAPIOf returns the documents of OpenAPI v3 (KEP-2896) and v2 of a table. They stay compressed in memory and are sent compressed to
// clients that accept gzip, which all do.
func openAPIOf(table *registry.Table) (*openapi.Documents, error) {
	return openapi.Of(table, func(path string) bool { return Serves(table, path) })
}

// The media type of OpenAPI v2 in protobuf, and its older name, which clients request but which is not valid in a response.
const (
	typeOpenAPIv2      = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
	askedTypeOpenAPIv2 = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
)

// serveOpenAPIv2 serves /openapi/v2.
func (c *call) serveOpenAPIv2() {
	merged, err := c.mergedNow()
	if err != nil {
		c.fail(err)
		return
	}
	contentType, document := typeJSON, merged.v2JSON
	if accept := c.r.Header.Get("Accept"); strings.Contains(accept, typeOpenAPIv2) || strings.Contains(accept, askedTypeOpenAPIv2) {
		contentType, document = typeOpenAPIv2, merged.v2Proto
	}
	packed, err := document()
	if err != nil {
		c.fail(apierrors.NewInternalError(err))
		return
	}
	c.w.Header().Set("Content-Type", contentType)
	c.sendPacked(packed)
}

// serveOpenAPI serves /openapi/v3 and the paths below it.
func (c *call) serveOpenAPI() {
	documents, err := c.openapi.of(c.Objects.Kinds())
	if err != nil {
		c.fail(err)
		return
	}
	name := strings.Trim(strings.TrimPrefix(c.r.URL.Path, "/openapi/v3"), "/")
	if name == "" {
		m, err := c.mergedNow()
		if err != nil {
			c.fail(err)
			return
		}
		c.w.Header().Set("Content-Type", typeJSON)
		c.w.Write(m.openAPI)
		return
	}
	document, ok, err := documents.Document(name)
	if err != nil {
		c.fail(apierrors.NewInternalError(err))
		return
	}
	if !ok {
		c.fail(noSuchPath(c.r))
		return
	}
	c.w.Header().Set("Content-Type", typeJSON)
	if c.r.URL.Query().Get("hash") != "" {
		c.w.Header().Set("Cache-Control", "public, immutable")
	}
	c.sendPacked(document)
}

// sendPacked sends a compressed document, decompressing it only for clients that do not accept gzip.
func (c *call) sendPacked(document []byte) {
	c.w.Header().Set("Vary", "Accept, Accept-Encoding")
	if strings.Contains(c.r.Header.Get("Accept-Encoding"), "gzip") {
		c.w.Header().Set("Content-Encoding", "gzip")
		c.w.Write(document)
		return
	}
	plain, err := gzip.NewReader(bytes.NewReader(document))
	if err != nil {
		c.fail(apierrors.NewInternalError(err))
		return
	}
	io.Copy(c.w, plain) // an error means that the client has disconnected
}
