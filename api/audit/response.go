package audit

import (
	"bufio"
	"net"
	"net/http"

	"k8s.io/apiserver/pkg/endpoints/responsewriter"
)

// Writer wraps w to record when the response begins.
func (r *Record) Writer(w http.ResponseWriter) http.ResponseWriter {
	if !r.Recording() {
		return w
	}
	return responsewriter.WrapForHTTP1Or2(&responseWriter{w, r})
}

type responseWriter struct {
	http.ResponseWriter
	record *Record
}

// Unwrap is used by http.ResponseController.
func (w *responseWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Write implements http.ResponseWriter.
func (w *responseWriter) Write(b []byte) (int, error) {
	w.record.Started(http.StatusOK)
	return w.ResponseWriter.Write(b)
}

// WriteHeader implements http.ResponseWriter.
func (w *responseWriter) WriteHeader(code int) {
	if code >= http.StatusOK || code == http.StatusSwitchingProtocols { // informational responses precede the actual one
		w.record.Started(code)
	}
	w.ResponseWriter.WriteHeader(code)
}

// Hijack implements http.Hijacker.
func (w *responseWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	w.record.Started(http.StatusSwitchingProtocols)
	return w.ResponseWriter.(http.Hijacker).Hijack()
}
