package aggregation

import (
	"context"
	"crypto/sha256"
	"net/http"

	"github.com/kontiki/kontiki/api/openapi"
)

// openAPIv2 is what a service says of its group version in OpenAPI v2. It is immutable.
type openAPIv2 struct {
	tag  string            // the document's entity tag, "" if it has none
	sum  [sha256.Size]byte // of the document
	part *openapi.Part     // nil if nothing of it can be used
	err  error             // why not
}

// OpenAPIv2 returns what the service says of its group version in OpenAPI v2, nil if that is nothing.
func (s *Service) OpenAPIv2() *openapi.Part {
	if s.v2 == nil {
		return nil
	}
	return s.v2.part
}

// openAPIv2 reads the service's document of OpenAPI v2, unless it has not changed. Servers need not have one: discovery does not depend on it, nor
// does it on whether the document can be used.
func (s *Service) openAPIv2(ctx context.Context) *openAPIv2 {
	header := http.Header{}
	if s.v2 != nil && s.v2.tag != "" {
		header.Set("If-None-Match", s.v2.tag)
	}
	body, answer, err := s.get(ctx, "/openapi/v2", header)
	switch {
	case answer != nil && answer.StatusCode == http.StatusNotModified && s.v2 != nil:
		return s.v2
	case answer != nil && answer.StatusCode == http.StatusOK && err != nil:
		return &openAPIv2{err: err} // too much
	case answer != nil && err != nil:
		return nil // no such document
	case err != nil:
		return s.v2 // that known last
	}
	found := &openAPIv2{tag: answer.Header.Get("Etag"), sum: sha256.Sum256(body)}
	if s.v2 != nil && s.v2.sum == found.sum {
		return s.v2
	}
	found.part, found.err = openapi.PartOf(body, "/apis/"+s.Group+"/"+s.Version)
	return found
}
