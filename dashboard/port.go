package dashboard

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A pod's port is opened in a frame of the page, by paths below portPrefix. See "Ports of pods" in doc.go for what protects whom.
const (
	portPrefix = Root + "/port/"
	// grantLife is how long a grant counts; it ends with the session at the latest.
	grantLife = time.Hour
	// portPolicy gives what a pod serves an origin of its own, of which there is no second page, and keeps it in a frame of the page.
	portPolicy = "sandbox allow-scripts allow-forms allow-downloads; frame-ancestors 'self'"
	maxOpening = 4 << 10
	forPort    = "kontiki dashboard port 1"
)

// grant lets a request reach one port as the user of a session.
type grant struct {
	Token string   `json:"t,omitempty"`
	Chain [][]byte `json:"c,omitempty"`
	// Path is that of the API's proxy to the port, without a slash at its end.
	Path string `json:"p"`
	// Ends is a Unix time.
	Ends int64 `json:"e"`
}

// opening is the body of a request for a grant.
type opening struct {
	// Resource is "pods" or "services".
	Resource  string `json:"resource"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// Port is a number or a name, Scheme "http" (also if it is empty) or "https".
	Port   string `json:"port"`
	Scheme string `json:"scheme,omitempty"`
}

var (
	objectName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$`)
	portName   = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?$`)
)

// path returns the path of the API's proxy, or what is wrong with the request.
func (o opening) path() (string, error) {
	switch {
	case o.Resource != "pods" && o.Resource != "services":
		return "", errors.New("resource: must be pods or services")
	case !objectName.MatchString(o.Namespace):
		return "", errors.New("namespace: must be a name")
	case !objectName.MatchString(o.Name):
		return "", errors.New("name: must be a name")
	case o.Scheme != "" && o.Scheme != "http" && o.Scheme != "https":
		return "", errors.New("scheme: must be http or https")
	case !portName.MatchString(o.Port):
		return "", errors.New("port: must be a number or a name")
	}
	if n, err := strconv.Atoi(o.Port); err == nil && (n < 1 || n > 65535) {
		return "", errors.New("port: must be from 1 to 65535")
	}
	scheme := o.Scheme
	if scheme == "" {
		scheme = "http"
	}
	return fmt.Sprintf("/api/v1/namespaces/%s/%s/%s:%s:%s/proxy", o.Namespace, o.Resource, scheme, o.Name, o.Port), nil
}

// openPort answers with the path of a port, for a frame of the page.
func (d *Dashboard) openPort(w http.ResponseWriter, r *http.Request) {
	s, err := d.session(r)
	if err != nil {
		problem(w, http.StatusUnauthorized, "Unauthorized", err.Error())
		return
	}
	if err := authentic(r, s); err != nil {
		problem(w, http.StatusForbidden, "Forbidden", err.Error())
		return
	}
	var o opening
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxOpening))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&o); err != nil {
		problem(w, http.StatusBadRequest, "BadRequest", fmt.Sprintf("the body must be a JSON object that names a port: %v", err))
		return
	}
	path, err := o.path()
	if err != nil {
		problem(w, http.StatusBadRequest, "BadRequest", err.Error())
		return
	}
	_, ends := s.ends()
	if limit := d.Now().Add(grantLife); limit.Before(ends) {
		ends = limit
	}
	sealed, err := d.seal(forPort, grant{Token: s.Token, Chain: s.Chain, Path: path, Ends: ends.Unix()})
	if err != nil {
		problem(w, http.StatusInternalServerError, "InternalError", err.Error())
		return
	}
	answer(w, map[string]any{"path": portPrefix + sealed + "/", "ends": ends.UTC()})
}

// servePort passes a request of a frame on to the port that its grant names.
func (d *Dashboard) servePort(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", portPolicy)
	h.Set("Cache-Control", "no-store")
	// The frame's origin is opaque: to load its own parts is to load what is of another origin, and may only be allowed by these.
	h.Set("Cross-Origin-Resource-Policy", "cross-origin")
	h.Set("Access-Control-Allow-Origin", "null")
	h.Del("X-Frame-Options") // frame-ancestors says it
	h.Del("Cross-Origin-Opener-Policy")
	if err := fromFrame(r); err != nil {
		problem(w, http.StatusForbidden, "Forbidden", err.Error())
		return
	}
	sealed, escaped, found := strings.Cut(strings.TrimPrefix(r.URL.EscapedPath(), portPrefix), "/")
	var g grant
	if err := d.open(forPort, sealed, &g); err != nil {
		problem(w, http.StatusForbidden, "Forbidden", "this address was not made by the dashboard: "+err.Error())
		return
	}
	ends := time.Unix(g.Ends, 0)
	if !d.Now().Before(ends) {
		problem(w, http.StatusForbidden, "Forbidden", "this address has expired; open the port again in the dashboard")
		return
	}
	if r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != "" {
		preflight(w, r)
		return
	}
	if !found {
		http.Redirect(w, r, portPrefix+sealed+"/", http.StatusTemporaryRedirect)
		return
	}
	rest, err := url.PathUnescape(escaped)
	if err != nil || slices.ContainsFunc(strings.Split(rest, "/"), func(part string) bool { return part == "." || part == ".." }) {
		problem(w, http.StatusBadRequest, "BadRequest", "the path must not contain . and .. as parts")
		return
	}
	ctx, cancel := context.WithDeadline(r.Context(), ends)
	defer cancel()
	as, err := (&session{Token: g.Token, Chain: g.Chain}).as(r, ctx)
	if err != nil {
		problem(w, http.StatusUnauthorized, "Unauthorized", err.Error())
		return
	}
	for name := range as.Header {
		if lower := strings.ToLower(name); strings.HasPrefix(lower, "impersonate-") || strings.HasPrefix(lower, "x-remote-") || strings.HasPrefix(lower, "x-forwarded-") {
			as.Header.Del(name)
		}
	}
	as.Header.Del("Accept-Encoding") // links in pages are rewritten
	as.URL.Path = g.Path + "/" + rest
	as.URL.RawPath = g.Path + "/" + escaped
	as.RequestURI = as.URL.RequestURI()
	answer := newPortWriter(w, g.Path+"/", portPrefix+sealed+"/")
	d.API.ServeHTTP(answer, as)
	answer.finish()
}

// fromFrame returns an error unless a request may be of a frame that shows a port. A browser says what it loads, and for whom: the frame itself
// is loaded for the page, all else for the frame, whose origin is opaque. So neither a port nor one of its scripts becomes a part of the page, and none
// is ever shown under the masters' address without the page around it.
func fromFrame(r *http.Request) error {
	switch site, kind := r.Header.Get("Sec-Fetch-Site"), r.Header.Get("Sec-Fetch-Dest"); {
	case kind == "document":
		return errors.New("a port is only shown within the dashboard; open it there")
	case kind == "serviceworker", r.Header.Get("Service-Worker") != "":
		return errors.New("service workers are refused")
	case site == "same-origin" && kind != "iframe":
		return errors.New("what a port serves is not for the dashboard's own page")
	}
	return nil
}

var headerNames = regexp.MustCompile(`^[A-Za-z0-9, -]*$`)

// preflight allows the frame's scripts any method and header towards its own port.
func preflight(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, PATCH, DELETE")
	if asked := r.Header.Get("Access-Control-Request-Headers"); len(asked) <= 1024 && headerNames.MatchString(asked) {
		h.Set("Access-Control-Allow-Headers", asked)
	}
	w.WriteHeader(http.StatusNoContent)
}
