package rest_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientrest "k8s.io/client-go/rest"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/test/harness"
)

// fillMaps creates configuration maps of that many bytes each.
func fillMaps(t testing.TB, h *harness.Harness, n, bytes int) {
	t.Helper()
	for i := range n {
		if _, err := client.Create(t.Context(), h.Client, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprintf("m-%05d", i)},
			Data: map[string]string{"k": strings.Repeat("v", bytes)}}); err != nil {
			t.Fatal(err)
		}
	}
}

// plainly sends a request without the transport's own compression.
func plainly(t *testing.T, h *harness.Harness, path string, headers ...string) *http.Response {
	t.Helper()
	config := h.Config("admin", "system:masters")
	config.DisableCompression = true
	httpClient, err := clientrest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, "GET", config.Host+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	response, err := httpClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { response.Body.Close() })
	return response
}

func all(t *testing.T, r io.Reader) []byte {
	t.Helper()
	body, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// TestLargeResponsesAreCompressed if their client accepts that, in each encoding, and have the same content then.
func TestLargeResponsesAreCompressed(t *testing.T) {
	h := harness.New(t)
	fillMaps(t, h, 1, 200<<10)
	small := "/api/v1/namespaces/kube-system/configmaps"
	for _, path := range []string{configMapsPath, configMapsPath + "/m-00000", configMapsPath + "?pretty=1"} {
		for _, accept := range []string{"application/json", "application/yaml", "application/vnd.kubernetes.protobuf", wantsTable + ";q=0.1,application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"} {
			plain := plainly(t, h, path, "Accept", accept)
			want := all(t, plain.Body)
			if plain.Header.Get("Content-Encoding") != "" {
				t.Fatalf("%s is compressed unasked", path)
			}
			zipped := plainly(t, h, path, "Accept", accept, "Accept-Encoding", "br, gzip")
			got := all(t, zipped.Body)
			large := len(want) > 128<<10
			if compressed := zipped.Header.Get("Content-Encoding") == "gzip"; compressed != large || compressed != (zipped.Header.Get("Vary") == "Accept-Encoding") {
				t.Errorf("%s %s: %d bytes, headers %v", path, accept, len(want), zipped.Header)
			}
			if large {
				unzipped, err := gzip.NewReader(bytes.NewReader(got))
				if err != nil {
					t.Fatal(err)
				}
				got = all(t, unzipped)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s %s: %d bytes, then %d", path, accept, len(want), len(got))
			}
		}
	}
	for _, headers := range [][]string{{"Accept-Encoding", "gzip;q=1.0"}, {"Accept-Encoding", "deflate"}} {
		if got := plainly(t, h, configMapsPath, headers...).Header.Get("Content-Encoding"); got != "" {
			t.Errorf("%v: %s", headers, got)
		}
	}
	if got := plainly(t, h, small, "Accept-Encoding", "gzip").Header.Get("Content-Encoding"); got != "" {
		t.Errorf("a small list is compressed: %s", got)
	}
}

// TestWatchesFromTheStartAreCompressed event by event, and no others.
func TestWatchesFromTheStartAreCompressed(t *testing.T) {
	h := harness.New(t)
	fillMaps(t, h, 2, 10)
	if got := plainly(t, h, configMapsPath+"?watch=1", "Accept-Encoding", "gzip").Header.Get("Content-Encoding"); got != "" {
		t.Errorf("a watch without initial events of its own is compressed: %s", got)
	}
	response := plainly(t, h, configMapsPath+"?watch=1&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan", "Accept-Encoding", "gzip")
	if got := response.Header.Get("Content-Encoding"); got != "gzip" {
		t.Fatalf("Content-Encoding %q", got)
	}
	unzipped, err := gzip.NewReader(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(unzipped)
	lines.Buffer(nil, 1<<20)
	next := func(want string) {
		t.Helper()
		if !lines.Scan() || !strings.Contains(lines.Text(), want) {
			t.Fatalf("%q %v, want %s", lines.Text(), lines.Err(), want)
		}
	}
	next("m-00000")
	next("m-00001")
	next("k8s.io/initial-events-end")
	for _, name := range []string{"late", "later"} {
		if _, err := client.Create(t.Context(), h.Client, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}); err != nil {
			t.Fatal(err)
		}
		next(name)
	}
}
