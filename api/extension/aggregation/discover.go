package aggregation

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"time"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/transport"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

// Bounds of what is read of an extension API server.
const (
	maxAnswer    = 4 << 20
	maxResources = 1000
	// patience is upstream's, for checks of availability.
	patience = 5 * time.Second
)

// found is what discovery found.
type found struct {
	resources []apidiscoveryv2.APIResourceDiscovery
	openAPI   string
	v2        *openAPIv2
}

func (f *found) same(s *Service) bool {
	return f.openAPI == s.OpenAPI && f.v2 == s.v2 && reflect.DeepEqual(f.resources, s.Resources)
}

// Check returns why the extension API server of an APIService does not serve its group version. It need not be available yet.
func (s *Services) Check(ctx context.Context, a *apiregistrationv1.APIService) error {
	service := &Service{Group: a.Spec.Group, Version: a.Spec.Version, Spec: &a.Spec}
	if now := s.Now().Of(a.Spec.Group, a.Spec.Version); now != nil && sameTarget(now.Spec, &a.Spec) {
		service.t = now.t
	} else {
		service.t = s.target(&a.Spec)
		defer service.t.transport.CloseIdleConnections()
	}
	return service.Check(ctx)
}

// Check returns why the service does not serve its group version. Errors have upstream's text.
func (s *Service) Check(ctx context.Context) error {
	path := "/apis/" + s.Group + "/" + s.Version
	if _, _, err := s.get(ctx, path, nil); err != nil {
		return fmt.Errorf("failing or missing response from https://%s%s: %w", s.t.host, path, err)
	}
	return nil
}

// statusError is an answer that is none of success.
type statusError struct {
	path string
	code int
}

func (e *statusError) Error() string { return fmt.Sprintf("bad status from %s: %d", e.path, e.code) }

// get reads a document as the masters themselves. header are those of the request beside what it always has, nil for none.
func (s *Service) get(ctx context.Context, path string, header http.Header) (body []byte, answer *http.Response, err error) {
	if s.t.err != nil {
		return nil, nil, s.t.err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+s.t.host+path, nil)
	if err != nil {
		return nil, nil, err
	}
	maps.Copy(r.Header, header)
	r.Header.Set("Accept", "application/json")
	transport.SetAuthProxyHeaders(r, "system:kube-aggregator", "", []string{"system:masters"}, nil) // as upstream, so that it may read it
	response, err := s.t.transport.RoundTrip(r)
	if err != nil {
		return nil, nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, response, &statusError{path, response.StatusCode}
	}
	if body, err = io.ReadAll(io.LimitReader(response.Body, maxAnswer+1)); err == nil && len(body) > maxAnswer {
		err = errTooMuch
	}
	return body, response, err
}

// discover reads what the service serves.
func (s *Service) discover(ctx context.Context) (*found, error) {
	path := "/apis/" + s.Group + "/" + s.Version
	body, _, err := s.get(ctx, path, nil)
	if err != nil {
		return nil, err
	}
	var list metav1.APIResourceList
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(list.APIResources) > maxResources {
		return nil, fmt.Errorf("%s: %d resources: at most %d are possible", path, len(list.APIResources), maxResources)
	}
	f := &found{resources: s.resources(list.APIResources)}
	if f.openAPI, err = s.openAPI(ctx); err != nil {
		return nil, err
	}
	f.v2 = s.openAPIv2(ctx)
	return f, nil
}

// resources converts a list of resources to the aggregated form (k8s.io/apiserver/pkg/endpoints/discovery.ConvertGroupVersionIntoToDiscovery).
func (s *Service) resources(list []metav1.APIResource) []apidiscoveryv2.APIResourceDiscovery {
	out := []apidiscoveryv2.APIResourceDiscovery{}
	kindOf := func(r *metav1.APIResource) *metav1.GroupVersionKind {
		kind := &metav1.GroupVersionKind{Group: r.Group, Version: r.Version, Kind: r.Kind}
		if r.Version == "" {
			kind.Group, kind.Version = s.Group, s.Version
		}
		return kind
	}
	at := func(name string) int {
		return slices.IndexFunc(out, func(r apidiscoveryv2.APIResourceDiscovery) bool { return r.Resource == name })
	}
	for i := range list {
		r := &list[i]
		name, sub, isSub := strings.Cut(r.Name, "/")
		scope := apidiscoveryv2.ScopeCluster
		if r.Namespaced {
			scope = apidiscoveryv2.ScopeNamespace
		}
		known := at(name)
		switch {
		case isSub && known < 0: // a resource that has only subresources
			out = append(out, apidiscoveryv2.APIResourceDiscovery{Resource: name, Scope: scope, ResponseKind: &metav1.GroupVersionKind{}, Verbs: []string{}})
			known = len(out) - 1
			fallthrough
		case isSub:
			out[known].Subresources = append(out[known].Subresources, apidiscoveryv2.APISubresourceDiscovery{Subresource: sub, ResponseKind: kindOf(r), Verbs: r.Verbs})
		case known < 0:
			out = append(out, apidiscoveryv2.APIResourceDiscovery{})
			known = len(out) - 1
			fallthrough
		default:
			subs := out[known].Subresources
			out[known] = apidiscoveryv2.APIResourceDiscovery{Resource: name, ResponseKind: kindOf(r), Scope: scope, SingularResource: r.SingularName,
				Verbs: r.Verbs, ShortNames: r.ShortNames, Categories: r.Categories, Subresources: subs}
		}
	}
	return out
}

// openAPI returns the hash of the service's document of OpenAPI v3, "" if it has none.
func (s *Service) openAPI(ctx context.Context) (string, error) {
	body, answer, err := s.get(ctx, "/openapi/v3", nil)
	if answer != nil && (answer.StatusCode == http.StatusNotFound || answer.StatusCode == http.StatusForbidden) {
		return "", nil // older servers have none
	}
	if err != nil {
		return "", err
	}
	var index struct {
		Paths map[string]struct {
			ServerRelativeURL string `json:"serverRelativeURL"`
		} `json:"paths"`
	}
	if err := json.Unmarshal(body, &index); err != nil {
		return "", fmt.Errorf("/openapi/v3: %w", err)
	}
	document, ok := index.Paths["apis/"+s.Group+"/"+s.Version]
	if !ok {
		return "", nil
	}
	if at, err := url.Parse(document.ServerRelativeURL); err == nil && at.Query().Get("hash") != "" {
		return at.Query().Get("hash"), nil
	}
	return "none", nil
}
