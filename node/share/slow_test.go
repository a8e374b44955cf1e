package share

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/kontiki/kontiki/node/runtime"
)

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// slowShare is a node whose only peer answers as it is told, in a bubble of synctest.
func slowShare(answer roundTrip) *Share {
	s := New(Config{Node: "n0", Peers: func() []Peer { return []Peer{{"n1", "n1:10250"}} }, TLS: func() *tls.Config { return &tls.Config{} }, Log: slog.New(slog.DiscardHandler)})
	s.client = &http.Client{Transport: answer}
	return s
}

// A peer that is slow, but always makes some progress, does not keep a pull from the registry for ever.
func TestAPeerThatIsEndlesslySlowIsGivenUp(t *testing.T) {
	const size = 100 << 20
	image := digest.FromString("image")
	respond := func(r *http.Request, code int, body io.ReadCloser, length int64) *http.Response {
		return &http.Response{StatusCode: code, Status: strconv.Itoa(code), Header: http.Header{}, Body: body, ContentLength: length, Request: r}
	}
	t.Run("it says that it makes progress", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			progress := 0
			s := slowShare(func(r *http.Request) (*http.Response, error) {
				time.Sleep(notYet) // of virtual time, like those below
				progress++
				resp := respond(r, http.StatusAccepted, http.NoBody, 0)
				resp.Header.Set(progressHeader, strconv.Itoa(progress))
				return resp, nil
			})
			ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
			defer cancel()
			p := &Pull{share: s, image: image, source: "n1"}
			if _, err := p.request(ctx, Peer{"n1", "n1:10250"}, image, size); err == nil || ctx.Err() != nil {
				t.Errorf("after a day: %v", err)
			}
		})
	})
	t.Run("it sends a byte now and then", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
			defer cancel()
			s := slowShare(func(r *http.Request) (*http.Response, error) {
				from, to := io.Pipe()
				go func() {
					for r.Context().Err() == nil {
						time.Sleep(patience / 2)
						to.Write([]byte("x"))
					}
					to.CloseWithError(r.Context().Err())
				}()
				return respond(r, http.StatusOK, from, size), nil
			})
			p := &Pull{share: s, image: image, source: "n1"}
			body, err := p.request(ctx, Peer{"n1", "n1:10250"}, image, size)
			if err != nil {
				t.Fatal(err)
			}
			if _, err = io.Copy(io.Discard, body); err == nil || ctx.Err() != nil {
				t.Errorf("after a day: %v", err)
			}
			body.Close()
		})
	})
}

// A node that has many requests leaves slots to others.
func TestOneNodeDoesNotTakeAllSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := slowShare(nil)
		s.c.Open = func(context.Context, digest.Digest) (io.ReadCloser, int64, error) { return nil, 0, runtime.ErrNotFound }
		blob := digest.FromString("blob")
		s.pulls[blob] = map[*Pull]struct{}{{share: s, image: blob}: {}} // the blob is awaited
		ask := func(ctx context.Context, node string) *httptest.ResponseRecorder {
			r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/kontiki/peers/blobs/"+blob.String()+"?image="+blob.String(), nil)
			w := httptest.NewRecorder()
			s.Handler(func(*http.Request) string { return node }).ServeHTTP(w, r)
			return w
		}
		for range 2 * maxUploads {
			go ask(t.Context(), "greedy")
		}
		synctest.Wait()
		if used := len(s.uploads); used != maxUploadsOf {
			t.Errorf("one node has %d slots", used)
		}
		go ask(t.Context(), "modest")
		synctest.Wait()
		if used := len(s.uploads); used != maxUploadsOf+1 {
			t.Errorf("another node has to wait: %d slots are used", used)
		}
		time.Sleep(3 * notYet)
		synctest.Wait()
		if used := len(s.uploads); used != 0 {
			t.Errorf("%d slots are used for ever", used)
		}
	})
}
