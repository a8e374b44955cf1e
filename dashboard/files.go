package dashboard

import (
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strings"
)

//go:embed all:dist
var built embed.FS

const (
	indexFile = "index.html"
	// assets is the folder of the files whose names contain a hash of their content.
	assets = "assets/"
	// nonceMark is in the page where the nonce of its styles goes.
	nonceMark = "__NONCE__"
	// pagePolicy lets the page run its own files and talk to its own origin, and nothing else. The nonce is for the style elements that the terminal
	// makes.
	pagePolicy = "default-src 'none'; script-src 'self'; style-src 'self' 'nonce-%s'; img-src 'self' data:; font-src 'self'; " +
		"connect-src 'self'; frame-src 'self'; manifest-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
	// minCompressed is the size from which compression is worth it.
	minCompressed = 1 << 10
)

// file is one file of the page.
type file struct {
	plain, gzipped []byte // gzipped is nil if it is not smaller
	kind, etag     string
}

// files are those of the page, which do not change while the process runs.
type files struct {
	byPath map[string]*file
	index  *file
}

func newFiles(in fs.FS) (*files, error) {
	f := &files{byPath: map[string]*file{}}
	err := fs.WalkDir(in, "dist", func(at string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := fs.ReadFile(in, at)
		if err != nil {
			return err
		}
		made, err := newFile(at, data)
		f.byPath[strings.TrimPrefix(at, "dist/")] = made
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("the dashboard's files: %w", err)
	}
	if f.index = f.byPath[indexFile]; f.index == nil {
		return nil, fmt.Errorf("the dashboard's files lack %s", indexFile)
	}
	return f, nil
}

// kinds are the types of the page's files; the system's table may differ from machine to machine.
var kinds = map[string]string{
	".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml",
	".json": "application/json", ".woff2": "font/woff2", ".png": "image/png", ".md": "text/markdown; charset=utf-8",
}

func newFile(name string, data []byte) (*file, error) {
	kind := kinds[path.Ext(name)]
	if kind == "" {
		kind = mime.TypeByExtension(path.Ext(name))
	}
	if kind == "" {
		kind = "application/octet-stream"
	}
	digest := sha256.Sum256(data)
	f := &file{plain: data, kind: kind, etag: `"` + base64.RawURLEncoding.EncodeToString(digest[:12]) + `"`}
	if len(data) < minCompressed {
		return f, nil
	}
	gzipped, err := compress(data)
	if err == nil && len(gzipped) < len(data) {
		f.gzipped = gzipped
	}
	return f, err
}

func compress(data []byte) ([]byte, error) {
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	err = w.Close()
	return out.Bytes(), err
}

// serve serves a file, or the page itself at any other path: it has pages of its own, whose addresses a reload must find.
func (f *files) serve(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		problem(w, http.StatusMethodNotAllowed, "MethodNotAllowed", "only GET and HEAD are served here")
		return
	}
	name := strings.TrimPrefix(r.URL.Path, Root+"/")
	found := f.byPath[name]
	switch {
	case found == nil && strings.HasPrefix(name, assets):
		problem(w, http.StatusNotFound, "NotFound", "there is no such file")
	case found == nil || found == f.index:
		f.servePage(w, r)
	default:
		w.Header().Set("Cache-Control", "no-cache")
		if strings.HasPrefix(name, assets) {
			w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
		}
		w.Header().Set("ETag", found.etag)
		if r.Header.Get("If-None-Match") == found.etag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		found.write(w, r, filePolicy)
	}
}

// filePolicy is for files that are no pages.
const filePolicy = "default-src 'none'; frame-ancestors 'none'"

// write writes the file, with a Content-Security-Policy.
func (f *file) write(w http.ResponseWriter, r *http.Request, policy string) {
	h := w.Header()
	h.Set("Content-Type", f.kind)
	h.Set("Content-Security-Policy", policy)
	body := f.plain
	if f.gzipped != nil {
		h.Set("Vary", "Accept-Encoding")
		if acceptsGzip(r) {
			h.Set("Content-Encoding", "gzip")
			body = f.gzipped
		}
	}
	h.Set("Content-Length", fmt.Sprint(len(body)))
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // an error means that the client has disconnected
	}
}

func acceptsGzip(r *http.Request) bool {
	for accepted := range strings.SplitSeq(r.Header.Get("Accept-Encoding"), ",") {
		name, parameters, _ := strings.Cut(strings.TrimSpace(accepted), ";")
		if strings.EqualFold(name, "gzip") && strings.ReplaceAll(parameters, " ", "") != "q=0" {
			return true
		}
	}
	return false
}

// servePage serves the page, with a nonce of its own.
func (f *files) servePage(w http.ResponseWriter, r *http.Request) {
	nonce := rand.Text()
	h := w.Header()
	h.Set("Content-Type", f.index.kind)
	h.Set("Content-Security-Policy", fmt.Sprintf(pagePolicy, nonce))
	h.Set("Cache-Control", "no-store")
	if r.Method != http.MethodHead {
		_, _ = io.WriteString(w, strings.ReplaceAll(string(f.index.plain), nonceMark, nonce))
	}
}
