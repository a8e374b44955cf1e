package httplimit

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestResponsesAreLimited(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, strings.Repeat("x", len(r.URL.Path)-1))
	}))
	defer server.Close()
	for _, base := range []http.RoundTripper{nil, server.Client().Transport} {
		client := &http.Client{Transport: Transport{base, 10}}
		for size, want := range map[int]error{0: nil, 9: nil, 10: nil, 11: ErrTooLong, 1000: ErrTooLong} {
			response, err := client.Get(server.URL + "/" + strings.Repeat("a", size))
			if err != nil {
				t.Fatal(err)
			}
			data, err := io.ReadAll(response.Body)
			if !errors.Is(err, want) || want == nil && len(data) != size || len(data) > 11 {
				t.Errorf("%d bytes: read %d, %v", size, len(data), err)
			}
			if _, again := response.Body.Read(make([]byte, 1)); want != nil && !errors.Is(again, want) {
				t.Errorf("read again: %v", again)
			}
			response.Body.Close()
		}
	}
}
