package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/kontiki/kontiki/node/runtime"
)

// ImportedImage is one of the images in the response to POST /kontiki/images, which is a JSON list.
type ImportedImage struct {
	ID   string   `json:"id"`
	Tags []string `json:"tags"`
}

const (
	// maxImport limits the bytes of one request, maxImports the number of concurrent ones.
	maxImport  = 16 << 30
	maxImports = 2
	// importIdle limits how long an import may wait for further bytes, importTime its total duration.
	importIdle = time.Minute
	importTime = time.Hour
)

// patientBody extends the read deadline as long as bytes arrive.
type patientBody struct {
	io.Reader
	rc   *http.ResponseController
	idle time.Duration
}

func (b patientBody) Read(to []byte) (int, error) {
	_ = b.rc.SetReadDeadline(time.Now().Add(b.idle))
	return b.Reader.Read(to)
}

// begin takes a slot for an import or a pull, and limits its time; done gives the slot back. Without a free slot it writes the error.
func (s *Server) begin(w http.ResponseWriter, r *http.Request) (ctx context.Context, done func(), ok bool) {
	select {
	case s.imports <- struct{}{}:
	default:
		w.Header().Set("Retry-After", "10")
		http.Error(w, "too many imports are in progress", http.StatusTooManyRequests)
		return nil, nil, false
	}
	ctx, cancel := context.WithTimeout(r.Context(), importTime)
	return ctx, func() { cancel(); <-s.imports }, true
}

func (s *Server) importImage(w http.ResponseWriter, r *http.Request) {
	ctx, done, ok := s.begin(w, r)
	if !ok {
		return
	}
	defer done()
	list, err := s.c.Runtime.ImportImage(ctx, patientBody{http.MaxBytesReader(w, r.Body, s.maxImport), http.NewResponseController(w), s.importIdle})
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		http.Error(w, fmt.Sprintf("the archive has more than %d bytes", tooLarge.Limit), http.StatusRequestEntityTooLarge)
		return
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	out := []ImportedImage{}
	for _, i := range list {
		out = append(out, ImportedImage{ID: i.ID, Tags: i.RepoTags})
	}
	writeJSON(w, out)
}

// LocalImage is one of the images in the response to GET /kontiki/images, which is a JSON list.
type LocalImage struct {
	ID       string   `json:"id"`
	Tags     []string `json:"tags,omitempty"`
	Digests  []string `json:"digests,omitempty"`
	Size     int64    `json:"size"`
	Imported bool     `json:"imported,omitempty"`
}

func localImage(i runtime.Image) LocalImage {
	return LocalImage{ID: i.ID, Tags: i.RepoTags, Digests: i.RepoDigests, Size: i.Size, Imported: i.Imported}
}

func (s *Server) listImages(w http.ResponseWriter, r *http.Request) {
	list, err := s.c.Runtime.ListImages(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	out := []LocalImage{}
	for _, i := range list {
		out = append(out, localImage(i))
	}
	writeJSON(w, out)
}

// imageError writes an error about the image of a request.
func imageError(w http.ResponseWriter, err error) {
	code := http.StatusInternalServerError
	switch {
	case errors.Is(err, runtime.ErrNotFound):
		code = http.StatusNotFound
	case errors.Is(err, runtime.ErrInvalidImageName):
		code = http.StatusBadRequest
	case errors.Is(err, runtime.ErrRegistryUnreachable):
		code = http.StatusBadGateway
	}
	http.Error(w, err.Error(), code)
}

// removeImage removes an image that no container has.
func (s *Server) removeImage(w http.ResponseWriter, r *http.Request) {
	ref := r.URL.Query().Get("image")
	img, err := s.c.Runtime.GetImage(r.Context(), ref)
	if err != nil {
		imageError(w, err)
		return
	}
	list, err := s.c.Runtime.ListContainers(r.Context(), "")
	if err != nil {
		imageError(w, err)
		return
	}
	var users []string
	for _, c := range list {
		if user := c.PodNamespace + "/" + c.PodName; c.ImageID == img.ID && !slices.Contains(users, user) {
			users = append(users, user)
		}
	}
	if len(users) > 0 {
		slices.Sort(users)
		shown := users[:min(len(users), 5)]
		more := ""
		if len(users) > len(shown) {
			more = fmt.Sprintf(" and %d more", len(users)-len(shown))
		}
		http.Error(w, fmt.Sprintf("image %s is used by the pods %s%s", ref, strings.Join(shown, ", "), more), http.StatusConflict)
		return
	}
	if err := s.c.Runtime.RemoveImage(r.Context(), img.ID); err != nil {
		imageError(w, err)
		return
	}
	writeJSON(w, localImage(img))
}

// pullImage pulls an image without credentials.
func (s *Server) pullImage(w http.ResponseWriter, r *http.Request) {
	ctx, done, ok := s.begin(w, r)
	if !ok {
		return
	}
	defer done()
	img, err := s.c.Runtime.PullImage(ctx, r.URL.Query().Get("image"), runtime.Auth{})
	if err != nil {
		imageError(w, err)
		return
	}
	writeJSON(w, localImage(img))
}

// exportImage writes an image as an archive. If that fails halfway, the connection is cut, so that no part passes for the whole.
func (s *Server) exportImage(w http.ResponseWriter, r *http.Request) {
	ref := r.URL.Query().Get("image")
	if _, err := s.c.Runtime.GetImage(r.Context(), ref); err != nil {
		imageError(w, err)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), importTime)
	defer cancel()
	w.Header().Set("Content-Type", "application/x-tar")
	if err := s.c.Runtime.ExportImage(ctx, ref, patientWriter{w, http.NewResponseController(w), s.importIdle}); err != nil {
		panic(http.ErrAbortHandler)
	}
}

// patientWriter extends the write deadline as long as the client reads.
type patientWriter struct {
	io.Writer
	rc   *http.ResponseController
	idle time.Duration
}

func (p patientWriter) Write(b []byte) (int, error) {
	_ = p.rc.SetWriteDeadline(time.Now().Add(p.idle))
	return p.Writer.Write(b)
}
