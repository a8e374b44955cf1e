package dashboard

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

// openPort signs in, opens a port, and returns the path of the grant.
func (p *page) openPort(body string) string {
	p.t.Helper()
	secret, cookies := p.signIn()
	r := p.do(request("POST", "/ui/port", body, secretHeader, secret, "Origin", "https://"+host, "Sec-Fetch-Site", "same-origin"), cookies...)
	if r.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(r.Body)
		p.t.Fatalf("%s: %s %s", body, r.Status, text)
	}
	return decode[struct{ Path string }](p.t, r).Path
}

const webPort = `{"resource":"pods","namespace":"shop","name":"web","port":"8080"}`

// inFrame returns a request as a browser makes it for what is in the frame.
func inFrame(method, path, kind string, headers ...string) *http.Request {
	return request(method, path, "", append([]string{secretHeader, "", "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Dest", kind}, headers...)...)
}

// TestAPortIsReachedAsTheUser: through the API's proxy, with the user's credential, and with nothing of the browser's.
func TestAPortIsReachedAsTheUser(t *testing.T) {
	p := newPage(t)
	at := p.openPort(webPort)
	if strings.Contains(at, "right") {
		t.Errorf("the address %s has the token", at)
	}
	_, cookies := p.signIn()
	r := request("GET", at+"a%2Fb/c?q=1", "", secretHeader, "", "Sec-Fetch-Site", "same-origin", "Sec-Fetch-Dest", "iframe", "Authorization", "Bearer other", "Referer", "https://"+host+"/ui/",
		"Impersonate-User", "root", "X-Remote-User", "root", "X-Forwarded-For", "10.0.0.1", "X-App", "kept")
	got := p.do(r, cookies...)
	if got.StatusCode != http.StatusOK || p.last.RequestURI != "/api/v1/namespaces/shop/pods/http:web:8080/proxy/a%2Fb/c?q=1" || p.last.URL.Path != "/api/v1/namespaces/shop/pods/http:web:8080/proxy/a/b/c" {
		t.Errorf("%s: the API was asked for %s, path %s", got.Status, p.last.RequestURI, p.last.URL.Path)
	}
	if p.last.Header.Get("Authorization") != "Bearer right" || p.last.Header.Get("X-App") != "kept" {
		t.Errorf("the API got %v", p.last.Header)
	}
	for _, name := range []string{"Cookie", "Referer", "Origin", "Impersonate-User", "X-Remote-User", "X-Forwarded-For", secretHeader} {
		if p.last.Header.Get(name) != "" {
			t.Errorf("the header %s was passed on", name)
		}
	}
	if deadline, ok := p.last.Context().Deadline(); !ok || !deadline.Equal(p.now.Add(grantLife)) {
		t.Errorf("a stream ends at %v", deadline)
	}
	p.now = p.now.Add(grantLife)
	p.last = nil
	if got := p.do(inFrame("GET", at, "iframe")); got.StatusCode != http.StatusForbidden || p.last != nil {
		t.Errorf("after an hour: %s", got.Status)
	}
}

// TestWhatAPortServesIsKeptApart tries what a hostile pod could answer.
func TestWhatAPortServesIsKeptApart(t *testing.T) {
	p := newPage(t)
	at := p.openPort(webPort)
	const proxied = "/api/v1/namespaces/shop/pods/http:web:8080/proxy/"
	p.d.API = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Link", "</x>; rel=preload")
		h.Set("Set-Cookie", cookieName+"=evil; Path=/ui/; Secure")
		w.WriteHeader(http.StatusEarlyHints)
		for name, value := range map[string]string{
			"Clear-Site-Data": `"*"`, "Strict-Transport-Security": "max-age=1", "WWW-Authenticate": "Basic realm=x", "Refresh": "0;url=/ui/", "Service-Worker-Allowed": "/",
			"Access-Control-Allow-Origin": "*", "Access-Control-Allow-Credentials": "true", "X-Frame-Options": "ALLOWALL", "Content-Security-Policy": "script-src 'none'", "Cache-Control": "public, max-age=999",
			"Content-Type": "text/html", "Content-Length": "1", "Location": "https://" + host + proxied + "next", "Trailer": "Set-Cookie", "Content-Language": "en",
		} {
			h.Set(name, value)
		}
		w.WriteHeader(http.StatusUnauthorized)
		text := `<a href="` + proxied + `a">` + proxied[:20] + `</a><img src="` + proxied + `b">` + proxied[:30]
		for len(text) > 0 { // in pieces
			n := min(7, len(text))
			io.WriteString(w, text[:n])
			text = text[n:]
		}
		h.Set(http.TrailerPrefix+"Set-Cookie", "a=b")
	})
	r := p.do(inFrame("GET", at, "iframe"))
	if r.StatusCode != http.StatusUnauthorized {
		t.Errorf("the status is %s", r.Status)
	}
	policies := r.Header.Values("Content-Security-Policy")
	if len(policies) != 2 || policies[0] != portPolicy || strings.Contains(policies[0], "same-origin") || !strings.HasPrefix(policies[0], "sandbox ") || policies[1] != "script-src 'none'" {
		t.Errorf("the policies are %q", policies)
	}
	for _, name := range []string{"Set-Cookie", "Clear-Site-Data", "Strict-Transport-Security", "WWW-Authenticate", "Refresh", "Service-Worker-Allowed", "Access-Control-Allow-Credentials", "Link", "Trailer", "X-Frame-Options", "Content-Length"} {
		if value := r.Header.Get(name); value != "" {
			t.Errorf("%s: %s reached the browser", name, value)
		}
	}
	if len(r.Cookies()) > 0 || r.Trailer.Get("Set-Cookie") != "" {
		t.Errorf("cookies: %v", r.Cookies())
	}
	if r.Header.Get("Access-Control-Allow-Origin") != "null" || r.Header.Get("Cache-Control") != "no-store" || r.Header.Get("X-Content-Type-Options") != "nosniff" || r.Header.Get("Content-Language") != "en" {
		t.Errorf("headers: %v", r.Header)
	}
	if got := r.Header.Get("Location"); got != "https://"+host+at+"next" {
		t.Errorf("it leads to %s", got)
	}
	body, _ := io.ReadAll(r.Body)
	if want := `<a href="` + at + `a">` + proxied[:20] + `</a><img src="` + at + `b">` + proxied[:30]; string(body) != want {
		t.Errorf("the page is %s", body)
	}
}

// TestGrantsAreForOnePort: a grant is worth nothing elsewhere, and what is no grant is worth nothing here.
func TestGrantsAreForOnePort(t *testing.T) {
	p := newPage(t)
	secret, cookies := p.signIn()
	at := p.openPort(webPort)
	sealed := strings.Trim(strings.TrimPrefix(at, portPrefix), "/")
	challenge := decode[map[string]any](t, p.do(request("GET", "/ui/session/challenge", "")))["challenge"].(string)
	for name, c := range map[string]struct {
		r    *http.Request
		want int
	}{
		"the session as a grant":             {inFrame("GET", portPrefix+url.PathEscape(cookies[0].Value)+"/", "iframe"), 403},
		"a challenge as a grant":             {inFrame("GET", portPrefix+challenge+"/", "iframe"), 403},
		"a changed grant":                    {inFrame("GET", portPrefix+flip(sealed)+"/", "iframe"), 403},
		"no grant":                           {inFrame("GET", portPrefix, "iframe"), 403},
		"a way out by dots":                  {inFrame("GET", at+"../../../secrets", "iframe"), 400},
		"a way out by encoded dots":          {inFrame("GET", at+"%2e%2e/%2e%2e/%2e%2e/secrets", "iframe"), 400},
		"a way out by encoded slashes":       {inFrame("GET", at+"..%2f..%2fsecrets", "iframe"), 400},
		"as a page of its own":               {inFrame("GET", at, "document", "Sec-Fetch-Site", "same-origin"), 403},
		"as a page, by a link elsewhere":     {inFrame("GET", at, "document"), 403},
		"as a script of the dashboard":       {inFrame("GET", at+"x.js", "script", "Sec-Fetch-Site", "same-origin"), 403},
		"read by the dashboard":              {inFrame("GET", at, "empty", "Sec-Fetch-Site", "same-origin"), 403},
		"as a service worker":                {inFrame("GET", at+"sw.js", "serviceworker"), 403},
		"the session's secret with no grant": {request("GET", portPrefix+"x/", "", secretHeader, secret), 403},
		"a script of the frame":              {inFrame("GET", at+"x.js", "script", "Origin", "null"), 200},
		"a form of the frame":                {inFrame("POST", at+"form", "iframe", "Origin", "null"), 200},
		"without the slash":                  {inFrame("GET", strings.TrimSuffix(at, "/"), "iframe"), 307},
	} {
		p.last = nil
		r := p.do(c.r, cookies...)
		if r.StatusCode != c.want || (c.want != 200) != (p.last == nil) {
			t.Errorf("%s: %s, the API was asked: %t", name, r.Status, p.last != nil)
		}
		if !strings.HasPrefix(r.Header.Get("Content-Security-Policy"), "sandbox ") {
			t.Errorf("%s: the policy is %q", name, r.Header.Get("Content-Security-Policy"))
		}
	}
	if r := p.do(request("GET", "/ui/api/version", "", secretHeader, secret), &http.Cookie{Name: cookieName, Value: sealed}); r.StatusCode != 401 {
		t.Errorf("a grant as a session: %s", r.Status)
	}
	// Only the page gets a grant, and only for what is a port.
	for name, c := range map[string]struct {
		body    string
		headers []string
		want    int
	}{
		"a page of another site":    {webPort, []string{secretHeader, secret, "Origin", "https://evil.example"}, 403},
		"the frame":                 {webPort, []string{secretHeader, secret, "Origin", "null"}, 403},
		"without the secret":        {webPort, []string{secretHeader, "-"}, 403},
		"another resource":          {`{"resource":"nodes","namespace":"a","name":"b","port":"1"}`, []string{secretHeader, secret}, 400},
		"a name with a slash":       {`{"resource":"pods","namespace":"a","name":"b/../c","port":"1"}`, []string{secretHeader, secret}, 400},
		"a namespace with a dot":    {`{"resource":"pods","namespace":"..","name":"b","port":"1"}`, []string{secretHeader, secret}, 400},
		"a port with a path":        {`{"resource":"pods","namespace":"a","name":"b","port":"1/x"}`, []string{secretHeader, secret}, 400},
		"a port that there is not":  {`{"resource":"pods","namespace":"a","name":"b","port":"70000"}`, []string{secretHeader, secret}, 400},
		"another scheme":            {`{"resource":"pods","namespace":"a","name":"b","port":"1","scheme":"file"}`, []string{secretHeader, secret}, 400},
		"a field that there is not": {`{"resource":"pods","namespace":"a","name":"b","port":"1","path":"/"}`, []string{secretHeader, secret}, 400},
	} {
		if r := p.do(request("POST", "/ui/port", c.body, c.headers...), cookies...); r.StatusCode != c.want {
			t.Errorf("%s: %s, not %d", name, r.Status, c.want)
		}
	}
	if r := p.do(request("POST", "/ui/port", webPort, secretHeader, secret)); r.StatusCode != 401 {
		t.Errorf("without a session: %s", r.Status)
	}
	// A preflight of the frame is answered, without credentials.
	r := p.do(inFrame("OPTIONS", at+"x", "empty", "Origin", "null", "Access-Control-Request-Method", "PUT", "Access-Control-Request-Headers", "content-type,x-app"))
	if r.StatusCode != 204 || r.Header.Get("Access-Control-Allow-Headers") != "content-type,x-app" || r.Header.Get("Access-Control-Allow-Credentials") != "" {
		t.Errorf("a preflight: %s %v", r.Status, r.Header)
	}
}

// TestAWebSocketPassesWithoutThePodsHeaders: the pod's answer is read, and written anew; one that is not a stream's beginning is dropped.
func TestAWebSocketPassesWithoutThePodsHeaders(t *testing.T) {
	for answer, want := range map[string]string{
		"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\nSet-Cookie: " + cookieName + "=evil; Path=/ui/; Secure\r\n\r\nframe": "frame",
		"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n":                                  "",
		"HTTP/1.1 101 Switching Protocols\r\n\r\nHTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\n\r\n":               "HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\n\r\n", // of the stream
		"HTTP/1.1 101 Switching Protocols\nUpgrade: websocket\nSet-Cookie: a=b\n\n\r\n\r\nframe":           "frame",
		"HTTP/1.1 103 Early Hints\r\nSet-Cookie: a=b\r\n\r\nHTTP/1.1 101 Switching Protocols\r\n\r\nframe": "",
	} {
		p := newPage(t)
		at := p.openPort(webPort)
		p.d.API = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			for i := range len(answer) { // byte by byte
				if _, err := conn.Write([]byte(answer[i : i+1])); err != nil {
					return
				}
			}
		})
		server := httptest.NewTLSServer(p.d)
		conn, err := (&tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}).DialContext(context.Background(), "tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "GET %sws HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nOrigin: null\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-Dest: websocket\r\n\r\n", at, host)
		conn.SetDeadline(time.Now().Add(30 * time.Second))
		reader := bufio.NewReader(conn)
		r, err := http.ReadResponse(reader, nil)
		if err != nil {
			t.Fatalf("%q: %v", answer, err)
		}
		if len(r.Header.Values("Set-Cookie")) > 0 || (r.StatusCode == 101) != (want != "") {
			t.Errorf("%q: %s %v", answer, r.Status, r.Header)
		}
		rest, _ := io.ReadAll(reader)
		if string(rest) != want {
			t.Errorf("%q: the stream is %q, not %q", answer, rest, want)
		}
		conn.Close()
		server.Close()
	}
}
