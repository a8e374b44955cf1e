package share

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/kontiki/kontiki/node/runtime"
)

// progressHeader has, in a response 202, a number of bytes that grows while the node makes progress.
const progressHeader = "Kontiki-Progress-Bytes"

// Handler serves /kontiki/peers/. caller returns the name of the node that a request comes from.
func (s *Share) Handler(caller func(*http.Request) string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /kontiki/peers/images", func(w http.ResponseWriter, r *http.Request) {
		var a announcement
		if !read(w, r, &a) {
			return
		}
		if len(a.Images) > maxAnnounced {
			http.Error(w, fmt.Sprintf("images: there are %d, at most %d are allowed", len(a.Images), maxAnnounced), http.StatusBadRequest)
			return
		}
		for i, image := range a.Images {
			if err := image.Validate(); err != nil {
				http.Error(w, fmt.Sprintf("images[%d]: %v", i, err), http.StatusBadRequest)
				return
			}
		}
		for _, image := range a.Images {
			s.tracker.has(image.String(), caller(r))
		}
		write(w, struct{}{})
	})
	mux.HandleFunc("POST /kontiki/peers/images/{digest}", func(w http.ResponseWriter, r *http.Request) {
		image, ok := parse(w, "digest", r.PathValue("digest"))
		var in report
		if !ok || !read(w, r, &in) {
			return
		}
		if !slices.Contains([]string{stateBegins, stateHas, stateDrops}, in.State) {
			http.Error(w, fmt.Sprintf("state: %q is not known", in.State), http.StatusBadRequest)
			return
		}
		if len(in.Failed) > maxAttempts {
			http.Error(w, fmt.Sprintf("failed: there are %d, at most %d are allowed", len(in.Failed), maxAttempts), http.StatusBadRequest)
			return
		}
		write(w, s.note(image, caller(r), in))
	})
	mux.HandleFunc("GET /kontiki/peers/blobs/{digest}", func(w http.ResponseWriter, r *http.Request) { s.blob(w, r, caller(r)) })
	return mux
}

func parse(w http.ResponseWriter, name, text string) (digest.Digest, bool) {
	d, err := digest.Parse(text)
	if err != nil {
		http.Error(w, fmt.Sprintf("%s: %v", name, err), http.StatusBadRequest)
	}
	return d, err == nil
}

func read(w http.ResponseWriter, r *http.Request, into any) bool {
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxMessage))
	if err := decoder.Decode(into); err != nil {
		http.Error(w, "the body is not what it should be: "+err.Error(), http.StatusBadRequest)
		return false
	}
	return true
}

func write(w http.ResponseWriter, out any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(out) // if it fails, the caller has gone
}

// uploadsTo returns the slots of the blobs that are sent to a node, or that it waits for.
func (s *Share) uploadsTo(node string) chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.uploadsOf[node] == nil {
		s.uploadsOf[node] = make(chan struct{}, maxUploadsOf)
	}
	return s.uploadsOf[node]
}

// blob sends a blob to a node. While the image is being pulled here, it waits for the blob for a while.
func (s *Share) blob(w http.ResponseWriter, r *http.Request, node string) {
	blob, ok := parse(w, "digest", r.PathValue("digest"))
	if !ok {
		return
	}
	image, ok := parse(w, "image", r.FormValue("image"))
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), notYet)
	defer cancel()
	for _, slots := range []chan struct{}{s.uploadsTo(node), s.uploads} {
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
		case <-ctx.Done():
			accepted(w, s.total.Load())
			return
		}
	}
	for {
		pull := s.pulling(image)
		var changed <-chan struct{}
		if pull != nil {
			changed = pull.changed.Next()
		}
		content, size, err := s.c.Open(r.Context(), blob)
		switch {
		case err == nil:
			s.send(w, content, size)
			return
		case !errors.Is(err, runtime.ErrNotFound):
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		case pull == nil:
			http.Error(w, "this node does not have the blob "+blob.String(), http.StatusNotFound)
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			accepted(w, pull.received.Load())
			return
		}
	}
}

// accepted responds that a blob may come later. progress grows as long as the node receives the image, or serves others.
func accepted(w http.ResponseWriter, progress uint64) {
	w.Header().Set(progressHeader, strconv.FormatUint(progress, 10))
	w.WriteHeader(http.StatusAccepted)
}

// sendIdle is how long a peer may accept nothing.
const sendIdle = time.Minute

func (s *Share) send(w http.ResponseWriter, content io.ReadCloser, size int64) {
	defer content.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	control := http.NewResponseController(w)
	buffer := make([]byte, 256<<10)
	for {
		n, err := content.Read(buffer)
		if n > 0 {
			if control.SetWriteDeadline(time.Now().Add(sendIdle)) != nil {
				return
			}
			if _, err := w.Write(buffer[:n]); err != nil {
				return
			}
			s.total.Add(uint64(n))
			s.sent.Add(float64(n))
		}
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			panic(http.ErrAbortHandler) // the peer sees that it is incomplete
		}
	}
}
