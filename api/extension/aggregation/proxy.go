package aggregation

import (
	"net/http"
	"net/url"
	"strings"

	"k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/transport"
	"k8s.io/streaming/pkg/httpstream"

	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/internal/upgrade"
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
	on.Trailer = nil
	for name := range on.Header {
		if private(name) {
			delete(on.Header, name)
		}
	}
	var by http.RoundTripper = s.t.transport
	streams := httpstream.IsUpgradeRequest(r)
	if streams { // the handler opens a connection of its own for it
		on.Header.Set("Connection", "Upgrade") // naming no header that says who the user is
		transport.SetAuthProxyHeaders(on, user.GetName(), user.GetUID(), user.GetGroups(), user.GetExtra())
		opening := upgrade.New(w, s.t.transport.DialContext, objects.DefaultRequestTimeout)
		w, by = opening, &http.Transport{DialContext: opening.Connect, TLSClientConfig: s.t.transport.TLSClientConfig}
	} else {
		by = transport.NewAuthProxyRoundTripper(user.GetName(), user.GetUID(), user.GetGroups(), user.GetExtra(), by)
	}
	handler := proxy.NewUpgradeAwareHandler(location, by, true, streams, fail)
	handler.RejectForwardingRedirects = true
	handler.ServeHTTP(w, on)
}

// private says whether a header of a request is not passed on: credentials, and what only the masters may say of the user. Some servers do not
// distinguish "_" from "-".
func private(name string) bool {
	name = http.CanonicalHeaderKey(strings.ReplaceAll(name, "_", "-"))
	return name == "Authorization" || name == "Proxy-Authorization" || name == "Cookie" || strings.HasPrefix(name, "Impersonate-") || strings.HasPrefix(name, "X-Remote-")
}
