package dashboard

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/kontiki/kontiki/internal/logline"
)

// Root is the path of the page; all its other paths begin with it and a slash.
const Root = "/ui"

// Config has what a Dashboard is made of.
type Config struct {
	// API is the handler of the API port.
	API http.Handler
	// Keys returns the cluster's secret keys by name, and the name of the one for new sessions. It is called for each request.
	Keys func() (current string, keys map[string][]byte)
	// Why writes why a pod is where it is, or does not run, with what the client may read; nil means that this is not served.
	Why func(ctx context.Context, client kubernetes.Interface, namespace, pod string, out io.Writer) error
	// Docs has the documents, Markdown files and pictures; nil means that none are served.
	Docs fs.FS
	// OIDC is the issuer at which users sign in by a redirect; nil means that they do not.
	OIDC *OIDC
	// Now is the time; nil means time.Now.
	Now func() time.Time
	Log *slog.Logger
}

// Dashboard is the handler of the page and of what it needs. It is safe for concurrent use.
type Dashboard struct {
	Config
	attempts *attempts
	clients  *logline.Limited
	issuer   *issuer // nil if there is none
	files    *files
	mux      *http.ServeMux
}

// New creates a Dashboard.
func New(c Config) (*Dashboard, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	files, err := newFiles(built)
	if err != nil {
		return nil, err
	}
	d := &Dashboard{Config: c, attempts: newAttempts(), clients: logline.NewLimited(c.Log), files: files, mux: http.NewServeMux()}
	if c.OIDC != nil {
		d.issuer = &issuer{OIDC: *c.OIDC}
	}
	d.mux.HandleFunc("GET "+oidcPath, d.redirect)
	d.mux.HandleFunc("GET "+callbackPath, d.callback)
	d.mux.HandleFunc("GET /ui/session/challenge", d.challenge)
	d.mux.HandleFunc("POST /ui/session", d.signIn)
	d.mux.HandleFunc("GET /ui/session", d.whoIs)
	d.mux.HandleFunc("DELETE /ui/session", d.signOut)
	d.mux.HandleFunc("GET /ui/why/{namespace}/{pod}", d.why)
	d.mux.HandleFunc("POST /ui/port", d.openPort)
	if c.Docs != nil {
		documents, err := newDocuments(c.Docs)
		if err != nil {
			return nil, fmt.Errorf("the documents: %w", err)
		}
		d.mux.HandleFunc("GET "+documentsPath, documents.serve)
	}
	d.mux.HandleFunc("/ui/", d.files.serve)
	d.mux.HandleFunc("/ui", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, Root+"/", http.StatusMovedPermanently)
	})
	return d, nil
}

// Serves says whether a path is the dashboard's.
func Serves(path string) bool { return path == Root || strings.HasPrefix(path, Root+"/") }

// ServeHTTP implements http.Handler for the paths that are the dashboard's.
func (d *Dashboard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	// The mux would redirect a path that is not clean, and a pod's name in the API's proxy may be followed by any path.
	if strings.HasPrefix(r.URL.Path, apiPrefix) {
		d.forward(w, r)
		return
	}
	if strings.HasPrefix(r.URL.Path, portPrefix) {
		d.servePort(w, r)
		return
	}
	d.mux.ServeHTTP(w, r)
}

// problem is the answer to a request that the dashboard itself refuses. Its form is that of the API's Status.
func problem(w http.ResponseWriter, code int, reason, message string) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(map[string]any{ // an error means that the client has disconnected
		"kind": "Status", "apiVersion": "v1", "metadata": struct{}{}, "status": "Failure", "message": message, "reason": reason, "code": code,
	})
}

// answer writes a JSON document that must not be cached.
func answer(w http.ResponseWriter, value any) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(value)
}

// errNoSession is the class of errors for requests without a valid session.
var errNoSession = errors.New("sign in")
