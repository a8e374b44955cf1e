package aggregation

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/transport"
	"k8s.io/streaming/pkg/httpstream"

	"github.com/kontiki/kontiki/api/objects"
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
	upgrade := httpstream.IsUpgradeRequest(r)
	if upgrade { // the handler opens a connection of its own for it
		on.Header.Set("Connection", "Upgrade") // naming no header that says who the user is
		transport.SetAuthProxyHeaders(on, user.GetName(), user.GetUID(), user.GetGroups(), user.GetExtra())
		opening := &opening{ResponseWriter: w, dial: s.t.transport.DialContext}
		w, by = opening, &http.Transport{DialContext: opening.connect, TLSClientConfig: s.t.transport.TLSClientConfig}
	} else {
		by = transport.NewAuthProxyRoundTripper(user.GetName(), user.GetUID(), user.GetGroups(), user.GetExtra(), by)
	}
	handler := proxy.NewUpgradeAwareHandler(location, by, true, upgrade, fail)
	handler.RejectForwardingRedirects = true
	handler.ServeHTTP(w, on)
}

// opening is an upgrade to a stream: until the extension API server has answered it, it has a limited time, and sends a limited number of bytes.
type opening struct {
	http.ResponseWriter
	dial func(ctx context.Context, network, address string) (net.Conn, error)
	conn *limitedConn
}

func (o *opening) connect(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := o.dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(objects.DefaultRequestTimeout)
	}
	o.conn = &limitedConn{Conn: conn}
	return o.conn, conn.SetReadDeadline(deadline)
}

// Hijack implements http.Hijacker. The server has answered when it is called.
func (o *opening) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	o.conn.open.Store(true)
	if err := o.conn.SetReadDeadline(time.Time{}); err != nil {
		return nil, nil, err
	}
	return http.NewResponseController(o.ResponseWriter).Hijack()
}

// limitedConn is a connection from which no more than maxHeader bytes are read before it is open.
type limitedConn struct {
	net.Conn
	read int // by one goroutine
	open atomic.Bool
}

func (c *limitedConn) Read(p []byte) (int, error) {
	if c.open.Load() {
		return c.Conn.Read(p)
	}
	if c.read > maxHeader {
		return 0, fmt.Errorf("the headers of the answer are larger than %d bytes", maxHeader)
	}
	n, err := c.Conn.Read(p)
	c.read += n
	return n, err
}

// private says whether a header of a request is not passed on: credentials, and what only the masters may say of the user. Some servers do not
// distinguish "_" from "-".
func private(name string) bool {
	name = http.CanonicalHeaderKey(strings.ReplaceAll(name, "_", "-"))
	return name == "Authorization" || name == "Proxy-Authorization" || name == "Cookie" || strings.HasPrefix(name, "Impersonate-") || strings.HasPrefix(name, "X-Remote-")
}
