package rest

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/streaming/pkg/httpstream"

	"github.com/kontiki/kontiki/api/extension/aggregation"
	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/api/openapi"
)

// extended has a request answered by an extension API server.
func (c *call) extended(s *aggregation.Service) {
	if !plain(c.r.URL.Path) {
		c.fail(apierrors.NewBadRequest(`the path contains ".", ".." or an empty part`))
		return
	}
	if c.verb == "watch" || httpstream.IsUpgradeRequest(c.r) {
		c.leave() // it is up to the extension API server when its first answer comes
	}
	if !objects.LongRunning(c.verb, c.target.subresource) {
		ctx, cancel := context.WithTimeout(c.r.Context(), c.timeout())
		defer cancel()
		c.r = c.r.WithContext(ctx)
	}
	s.ServeHTTP(c.w, c.r, c.user, extensionResponder{c})
}

// plain says whether a path means to everyone what it was authorized as: servers that clean paths do not see another object in it. What follows
// a subresource may have empty parts.
func plain(path string) bool {
	parts := strings.Split(strings.TrimSuffix(strings.TrimPrefix(path, "/"), "/"), "/")
	upToSubresource := 6 // apis, group, version, resource, name, subresource
	if len(parts) > 3 && parts[3] == "namespaces" {
		upToSubresource += 2
	}
	for i, part := range parts {
		if part == "." || part == ".." || part == "" && i < upToSubresource {
			return false
		}
	}
	return true
}

// servedByExtension has a path that names a group version of an extension API server, but no resource, answered by it; it returns false for
// other paths.
func (c *call) servedByExtension() bool {
	path, isOpenAPI := strings.CutPrefix(c.r.URL.Path, "/openapi/v3")
	parts := strings.Split(strings.Trim(path, "/"), "/")
	if len(parts) != 3 || parts[0] != "apis" {
		return false
	}
	s := c.Aggregated.Now().Of(parts[1], parts[2])
	if s == nil || isOpenAPI && s.OpenAPI == "" {
		return false
	}
	c.extended(s)
	return true
}

// extensionResponder answers when an extension API server cannot be reached.
type extensionResponder struct{ *call }

func (r extensionResponder) Error(_ http.ResponseWriter, _ *http.Request, err error) {
	if r.answer.begun.Load() {
		r.Log.Debug("a connection to an extension API server broke", "path", r.r.URL.Path, "error", err)
		return
	}
	writeError(r.w, r.r, apierrors.NewServiceUnavailable(fmt.Sprintf("error trying to reach service: %v", err)))
}

// merged are the documents about everything that is served, for a table of kinds and what extension API servers serve.
type merged struct {
	own       *discovery
	documents *openapi.Documents
	state     *aggregation.State

	discovery *discovery
	openAPI   []byte // the index of OpenAPI v3
	// v2JSON and v2Proto return the document of OpenAPI v2.
	v2JSON, v2Proto func() ([]byte, error)
}

// mergedNow returns the present documents.
func (c *call) mergedNow() (*merged, error) {
	own, err := c.discovery.of(c.Objects.Kinds())
	if err != nil {
		return nil, err
	}
	documents, err := c.openapi.of(c.Objects.Kinds())
	if err != nil {
		return nil, err
	}
	state := c.Aggregated.Now()
	if last := c.merged.Load(); last != nil && last.own == own && last.documents == documents && last.state == state {
		return last, nil
	}
	m := &merged{own: own, documents: documents, state: state, discovery: own, openAPI: documents.Index, v2JSON: documents.V2JSON, v2Proto: documents.V2Proto}
	if len(state.Services) > 0 {
		c.Aggregated.Merged()
		c.mergeV2(m)
		if m.discovery, err = own.with(state); err != nil {
			return nil, apierrors.NewInternalError(err)
		}
		if m.openAPI, err = indexWith(documents.Index, state); err != nil {
			return nil, apierrors.NewInternalError(err)
		}
	}
	c.merged.Store(m)
	return m, nil
}

// mergeV2 adds what extension API servers say of their group versions to the document of OpenAPI v2, which is made when it is asked for.
func (c *call) mergeV2(m *merged) {
	var prefixes []string
	var parts []*openapi.Part
	for _, s := range m.state.Services {
		prefixes = append(prefixes, "/apis/"+s.Group+"/"+s.Version)
		if part := s.OpenAPIv2(); part != nil {
			parts = append(parts, part)
		}
	}
	log, services := c.Log, c.Aggregated
	v2JSON, v2Proto := m.documents.Merged(prefixes, parts, func(prefix string, err error) {
		log.Warn("what an extension API server says in OpenAPI v2 cannot be merged", "path", prefix, "error", err)
	})
	timed := func(document func() ([]byte, error)) func() ([]byte, error) {
		return sync.OnceValues(func() ([]byte, error) {
			began := time.Now()
			defer func() { services.OpenAPIMerged(time.Since(began)) }()
			return document()
		})
	}
	m.v2JSON, m.v2Proto = timed(v2JSON), timed(v2Proto)
}

// ownPriority is the version priority of the masters' APIServices where upstream has none, as for metrics.k8s.io.
const ownPriority = 100

// with returns the documents with those of extension API servers. Those of their group versions they answer themselves. Their versions of a group come before
// the masters' if they have at least the masters' priority: clients take the first version that they know, so what is put in the place of an
// older version of metrics.k8s.io is asked, and not the masters by a newer one.
func (d *discovery) with(state *aggregation.State) (*discovery, error) {
	out := &discovery{documents: maps.Clone(d.documents), aggregated: maps.Clone(d.aggregated), groups: &metav1.APIGroupList{TypeMeta: d.groups.TypeMeta}}
	for _, g := range d.groups.Groups {
		g.Versions = slices.Clone(g.Versions)
		out.groups.Groups = append(out.groups.Groups, g)
	}
	for _, g := range d.named {
		g.Versions = slices.Clone(g.Versions)
		out.named = append(out.named, g)
	}
	before := map[string]int{} // how many versions of a group have been placed before the masters'
	for _, s := range state.Services {
		gv := groupVersion{group: s.Group, version: s.Version}
		i := slices.IndexFunc(out.groups.Groups, func(g metav1.APIGroup) bool { return g.Name == s.Group })
		if i < 0 || !slices.ContainsFunc(out.groups.Groups[i].Versions, func(v metav1.GroupVersionForDiscovery) bool { return v.Version == s.Version }) {
			addVersion(out.groups, gv)
		}
		first := s.Spec.VersionPriority >= ownPriority
		if i >= 0 && first {
			versions := out.groups.Groups[i].Versions
			j := slices.IndexFunc(versions, func(v metav1.GroupVersionForDiscovery) bool { return v.Version == s.Version })
			toPlace(versions, j, before[s.Group])
			out.groups.Groups[i].PreferredVersion = versions[0]
		}
		version := apidiscoveryv2.APIVersionDiscovery{Version: s.Version, Resources: s.Resources, Freshness: apidiscoveryv2.DiscoveryFreshnessStale}
		if s.Available && s.Fresh {
			version.Freshness = apidiscoveryv2.DiscoveryFreshnessCurrent
		}
		i = slices.IndexFunc(out.named, func(g apidiscoveryv2.APIGroupDiscovery) bool { return g.Name == s.Group })
		if i < 0 {
			i = len(out.named)
			out.named = append(out.named, apidiscoveryv2.APIGroupDiscovery{ObjectMeta: metav1.ObjectMeta{Name: s.Group}})
		}
		group := &out.named[i]
		j := slices.IndexFunc(group.Versions, func(v apidiscoveryv2.APIVersionDiscovery) bool { return v.Version == s.Version })
		if j < 0 {
			j = len(group.Versions)
			group.Versions = append(group.Versions, version)
		}
		group.Versions[j] = version
		if first {
			toPlace(group.Versions, j, before[s.Group])
			before[s.Group]++
		}
	}
	return out, out.addGroups()
}

// toPlace moves an element of a slice forward to another index.
func toPlace[T any](all []T, from, to int) {
	moved := all[from]
	copy(all[to+1:from+1], all[to:from])
	all[to] = moved
}

// indexWith returns an index of OpenAPI v3 with the documents of extension API servers.
func indexWith(index []byte, state *aggregation.State) ([]byte, error) {
	var all struct {
		Paths map[string]map[string]string `json:"paths"`
	}
	if err := json.Unmarshal(index, &all); err != nil {
		return nil, err
	}
	for _, s := range state.Services {
		name := "apis/" + s.Group + "/" + s.Version
		delete(all.Paths, name)
		if s.OpenAPI != "" {
			all.Paths[name] = map[string]string{"serverRelativeURL": "/openapi/v3/" + name + "?hash=" + url.QueryEscape(s.OpenAPI)}
		}
	}
	return json.Marshal(all)
}
