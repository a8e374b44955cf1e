package rest

import (
	"compress/gzip"
	"net/http"
	"strings"
	"sync"
)

// Upstream's values: responses up to this size are not compressed, and larger ones as fast as possible.
const (
	gzipThreshold = 128 << 10
	gzipLevel     = gzip.BestSpeed
)

var gzipWriters = sync.Pool{New: func() any {
	w, err := gzip.NewWriterLevel(nil, gzipLevel)
	if err != nil {
		panic(err) // the level is a constant
	}
	return w
}}

// acceptsGzip says whether a request accepts a compressed response, by upstream's rule: "gzip" without parameters.
func acceptsGzip(r *http.Request) bool {
	for encoding := range strings.SplitSeq(r.Header.Get("Accept-Encoding"), ",") {
		if strings.TrimSpace(encoding) == "gzip" {
			return true
		}
	}
	return false
}

// bodyWriter writes a response whose size is not known in advance, in large parts, and compressed if it is large and the client accepts
// that. Nothing is written before gzipThreshold bytes have been collected, so that an error until then can still be answered.
type bodyWriter struct {
	call *call
	as   accepted
	code int
	buf  []byte
	zip  *gzip.Writer
}

// sentParts are the parts in which a large response is written.
const sentParts = 64 << 10

// add adds to the response.
func (w *bodyWriter) add(b []byte) error {
	for {
		limit := gzipThreshold + 1
		if w.call.answer.begun.Load() {
			limit = sentParts
		}
		if len(w.buf)+len(b) < limit {
			w.buf = append(w.buf, b...)
			return nil
		}
		n := limit - len(w.buf)
		w.buf = append(w.buf, b[:n]...)
		b = b[n:]
		if err := w.send(); err != nil {
			return err
		}
	}
}

// send sends what has been collected.
func (w *bodyWriter) send() error {
	if !w.call.answer.begun.Load() {
		w.begin()
	}
	part := w.buf
	w.buf = w.buf[:0]
	var err error
	if w.zip != nil {
		_, err = w.zip.Write(part)
	} else {
		_, err = w.call.w.Write(part)
	}
	return err
}

func (w *bodyWriter) begin() {
	if len(w.buf) > gzipThreshold && acceptsGzip(w.call.r) {
		w.zip = gzipWriters.Get().(*gzip.Writer)
		w.zip.Reset(w.call.w)
	}
	w.call.beginBody(w.as.contentType(), w.code, w.zip != nil)
}

// finish ends the response. It must be called in any case; after an error of add, or of what made the response, only to release it.
func (w *bodyWriter) finish(failed error) error {
	err := failed
	if err == nil {
		err = w.send()
	}
	if w.zip != nil {
		if err == nil {
			err = w.zip.Close()
		}
		w.zip.Reset(nil)
		gzipWriters.Put(w.zip)
		w.zip = nil
	}
	return err
}

// beginBody sends the headers of a response with a body.
func (c *call) beginBody(contentType string, code int, compressed bool) {
	h := c.w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Cache-Control", "no-cache, private")
	if compressed {
		h.Set("Content-Encoding", "gzip")
		h.Add("Vary", "Accept-Encoding")
	}
	c.w.WriteHeader(code)
}
