package containerd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kontiki/kontiki/internal/ociimage"
	"github.com/kontiki/kontiki/node/runtime"
	"github.com/kontiki/kontiki/node/runtime/runtimetest"
)

// smallRegistry has one image, of one empty layer. It refuses everything while refuse is set.
func smallRegistry(t *testing.T) (web *httptest.Server, ref string, refuse *atomic.Bool) {
	digest := func(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }
	layer := make([]byte, 1024) // the end of a tar archive
	config := fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":[%q]}}`, digest(layer))
	manifest := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
		"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},
		"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":%q,"size":%d}]}`, digest(config), len(config), digest(layer), len(layer))
	refuse = new(atomic.Bool)
	web = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch path := r.URL.Path; {
		case refuse.Load():
			http.Error(w, "you may not", http.StatusForbidden)
		case strings.HasSuffix(path, "/manifests/1"), strings.HasSuffix(path, digest(manifest)):
			w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
			w.Header().Set("Docker-Content-Digest", digest(manifest))
			_, _ = w.Write(manifest)
		case strings.HasSuffix(path, digest(config)):
			_, _ = w.Write(config)
		case strings.HasSuffix(path, digest(layer)):
			_, _ = w.Write(layer)
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(web.Close)
	return web, strings.TrimPrefix(web.URL, "http://") + "/small:1", refuse
}

// TestARegistryThatIsAwayIsToldFromOneThatRefuses, and images that were imported from those that were pulled.
func TestARegistryThatIsAwayIsToldFromOneThatRefuses(t *testing.T) {
	d := runtimetest.StartDaemon(t)
	r, _ := open(t, d, nil)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	web, ref, refuse := smallRegistry(t)
	var archive bytes.Buffer
	if err := ociimage.Write(&archive, ociimage.Image{Name: ref}); err != nil {
		t.Fatal(err)
	}
	imported := func(want bool) {
		t.Helper()
		if img, err := r.GetImage(ctx, ref); err != nil || img.Imported != want {
			t.Errorf("imported %v, not %v (%v)", img.Imported, want, err)
		}
	}
	if list, err := r.ImportImage(ctx, bytes.NewReader(archive.Bytes())); err != nil || len(list) != 1 || !list[0].Imported {
		t.Fatalf("%+v, %v", list, err)
	}
	imported(true)
	refuse.Store(true)
	if _, err := r.PullImage(ctx, ref, runtime.Auth{}); err == nil || errors.Is(err, runtime.ErrRegistryUnreachable) {
		t.Errorf("refused: %v", err)
	}
	imported(true)
	refuse.Store(false)
	if img, err := r.PullImage(ctx, ref, runtime.Auth{}); err != nil || img.Imported {
		t.Errorf("pulled: %+v, %v", img, err)
	}
	imported(false)
	web.Close()
	if _, err := r.PullImage(ctx, ref, runtime.Auth{}); !errors.Is(err, runtime.ErrRegistryUnreachable) || strings.Contains(err.Error(), "runtime:") {
		t.Errorf("away: %v", err)
	}
	if _, err := r.ImportImage(ctx, bytes.NewReader(archive.Bytes())); err != nil {
		t.Fatal(err)
	}
	imported(true)
}
