package dashboard

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// maxResponse is the largest answer that the dashboard itself reads from the API.
const maxResponse = 64 << 20

// client returns a client of the API, in this process, with a session's credential. The request says whom the audit log names as its source.
func (d *Dashboard) client(r *http.Request, s *session) (kubernetes.Interface, error) {
	return kubernetes.NewForConfig(&rest.Config{
		Host: "https://" + r.Host, QPS: -1, UserAgent: r.UserAgent(), Transport: &inProcess{api: d.API, from: r, session: s},
	})
}

// inProcess is a transport to a handler in the same process, for answers that are not streams.
type inProcess struct {
	api     http.Handler
	from    *http.Request
	session *session
}

// RoundTrip implements http.RoundTripper.
func (t *inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	as, err := t.session.as(r, r.Context())
	if err != nil {
		return nil, err
	}
	if as.Body == nil {
		as.Body = http.NoBody
	}
	as.RemoteAddr, as.RequestURI, as.Host = t.from.RemoteAddr, as.URL.RequestURI(), t.from.Host
	as.Proto, as.ProtoMajor, as.ProtoMinor = "HTTP/2.0", 2, 0
	w := &recorder{header: http.Header{}}
	t.api.ServeHTTP(w, as)
	if w.over {
		return nil, fmt.Errorf("the answer is longer than %d bytes", maxResponse)
	}
	if w.code == 0 {
		w.code = http.StatusOK
	}
	return &http.Response{
		StatusCode: w.code, Status: fmt.Sprintf("%d %s", w.code, http.StatusText(w.code)), Proto: "HTTP/2.0", ProtoMajor: 2, Header: w.header,
		Body: io.NopCloser(&w.body), ContentLength: int64(w.body.Len()), Request: r,
	}, nil
}

// recorder keeps a response in memory.
type recorder struct {
	header http.Header
	code   int
	body   bytes.Buffer
	over   bool
}

func (w *recorder) Header() http.Header { return w.header }

func (w *recorder) WriteHeader(code int) {
	if w.code == 0 && code >= http.StatusOK {
		w.code = code
	}
}

func (w *recorder) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	if w.body.Len()+len(b) > maxResponse {
		w.over = true
		return 0, errors.New("the answer is too long")
	}
	return w.body.Write(b)
}

// Flush implements http.Flusher.
func (w *recorder) Flush() {}
