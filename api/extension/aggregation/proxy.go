package aggregation

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	"k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/transport"
	"k8s.io/streaming/pkg/httpstream"
)

// ServeHTTP passes a request of a user on. Streams are passed on too. fail answers with an error, if no answer has begun.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request, user user.Info, fail proxy.ErrorResponder) {
	switch {
	case !s.Available:
		http.Error(w, "service unavailable", http.StatusServiceUnavailable) // upstream's answer
		return
	case s.t.err != nil:
		http.Error(w, s.t.err.Error(), http.StatusInternalServerError)
		return
	}
	location := &url.URL{Scheme: "https", Host: s.t.host, Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: r.URL.RawQuery}
	on := r.Clone(r.Context())
	on.URL, on.Host = location, location.Host
	for name := range on.Header {
		if private(name) {
			delete(on.Header, name)
		}
	}
	var by http.RoundTripper = s.t.transport
	upgrade := httpstream.IsUpgradeRequest(r)
	if upgrade { // the handler opens a connection of its own for it
		transport.SetAuthProxyHeaders(on, user.GetName(), user.GetUID(), user.GetGroups(), user.GetExtra())
	} else {
		by = transport.NewAuthProxyRoundTripper(user.GetName(), user.GetUID(), user.GetGroups(), user.GetExtra(), by)
	}
	handler := proxy.NewUpgradeAwareHandler(location, by, true, upgrade, fail)
	handler.RejectForwardingRedirects = true
	handler.ServeHTTP(w, on)
}

// Get reads a path as a user. The caller closes the body, and bounds it.
func (s *Service) Get(ctx context.Context, user user.Info, path string, query url.Values) (*http.Response, error) {
	if s.t.err != nil {
		return nil, s.t.err
	}
	at := &url.URL{Scheme: "https", Host: s.t.host, Path: path, RawQuery: query.Encode()}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Accept", "application/json")
	return transport.NewAuthProxyRoundTripper(user.GetName(), user.GetUID(), user.GetGroups(), user.GetExtra(), s.t.transport).RoundTrip(r)
}

// private says whether a header of a request is not passed on: credentials, and what only the masters may say of the user.
func private(name string) bool {
	return name == "Authorization" || name == "Cookie" || strings.HasPrefix(name, "Impersonate-") || strings.HasPrefix(name, "X-Remote-")
}
