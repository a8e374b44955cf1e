// Package httplimit limits the bytes of HTTP responses, for libraries that read them as a whole.
package httplimit

import (
	"errors"
	"io"
	"net/http"
)

// ErrTooLong is what reading a response returns after its first Most bytes, if it has more.
var ErrTooLong = errors.New("the response is larger than what is read of one")

// Transport limits each response of another transport to Most bytes. It is as safe for concurrent use as that is.
type Transport struct {
	http.RoundTripper // nil means http.DefaultTransport
	Most              int64
}

// RoundTrip implements http.RoundTripper.
func (t Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	base := t.RoundTripper
	if base == nil {
		base = http.DefaultTransport
	}
	response, err := base.RoundTrip(r)
	if err == nil {
		response.Body = &body{response.Body, t.Most}
	}
	return response, err
}

type body struct {
	io.ReadCloser
	left int64
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, ErrTooLong
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left+1)])
	if b.left -= int64(n); b.left < 0 {
		return n, ErrTooLong
	}
	return n, err
}
