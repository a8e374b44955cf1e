package containerd

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	goruntime "runtime"
	"strings"
	"testing"
	"time"

	"github.com/kontiki/kontiki/internal/ociimage"
	"github.com/kontiki/kontiki/node/runtime"
	"github.com/kontiki/kontiki/node/runtime/runtimetest"
)

type entry struct {
	name, content string
	size          int64 // if it is not the content's
}

// archiveOf is a tar archive; it ends with the header of an entry that says a size of its own.
func archiveOf(t *testing.T, entries ...entry) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, e := range entries {
		size := int64(len(e.content))
		if e.size > 0 {
			size = e.size
		}
		if err := w.WriteHeader(&tar.Header{Name: e.name, Mode: 0o644, Size: size, Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if e.size > 0 {
			return out.Bytes()
		}
		if _, err := io.WriteString(w, e.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestEntriesOfArchivesAreBounded(t *testing.T) {
	limits := imageLimits{bytes: 20000, entries: 3, names: 20, document: 100, elements: 10}
	for name, c := range map[string]struct {
		entries []entry
		says    string
	}{
		"within":              {[]entry{{name: "a", content: strings.Repeat("x", 3000)}, {name: "b"}, {name: "index.json", content: "{}"}}, ""},
		"too many":            {[]entry{{name: "a"}, {name: "b"}, {name: "c"}, {name: "d"}}, "it has more than 3 entries"},
		"names too long":      {[]entry{{name: strings.Repeat("a", 15)}, {name: strings.Repeat("b", 6)}}, "the names of its entries have more than 20 bytes"},
		"larger than it is":   {[]entry{{name: "a", size: 1 << 50}}, "it holds more than 20000 bytes"},
		"larger together":     {[]entry{{name: "a", content: strings.Repeat("x", 9000)}, {name: "b", content: strings.Repeat("x", 9000)}, {name: "c", size: 3000}}, "it holds more than 20000 bytes"},
		"a large index":       {[]entry{{name: "./index.json", content: strings.Repeat("x", 101)}}, "its index.json has more than 100 bytes"},
		"a large manifest":    {[]entry{{name: "manifest.json", content: strings.Repeat("x", 101)}}, "its manifest.json has more than 100 bytes"},
		"many elements":       {[]entry{{name: "manifest.json", content: "[" + strings.Repeat("{},", 10) + "{}]"}}, "its manifest.json has more than 10 elements"},
		"deeply nested":       {[]entry{{name: "oci-layout", content: strings.Repeat("[", 33)}}, "its oci-layout is nested more than 32 levels deep"},
		"large, and no index": {[]entry{{name: "blobs/index.json", content: strings.Repeat("x", 101)}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			archive := append(archiveOf(t, c.entries...), "behind the end"...)
			checked, stop := limits.check(bytes.NewReader(archive))
			got, err := io.ReadAll(checked)
			stop()
			switch {
			case c.says == "" && (err != nil || !bytes.Equal(got, archive)):
				t.Errorf("%d of %d bytes, %v", len(got), len(archive), err)
			case c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)):
				t.Errorf("%v", err)
			}
		})
	}
	// A reader that has seen enough does not leave the parser behind, and errors of the sender arrive.
	_, stop := limits.check(bytes.NewReader(archiveOf(t, entry{name: "a"})))
	stop()
	broken := errors.New("broken")
	checked, stop := limits.check(io.MultiReader(strings.NewReader("half"), errorReader{broken}))
	if _, err := io.ReadAll(checked); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	stop()
}

type errorReader struct{ err error }

func (r errorReader) Read([]byte) (int, error) { return 0, r.err }

const manifestType, indexType = "application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.index.v1+json"

func encode(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func descriptor(mediaType string, b []byte) map[string]any {
	return map[string]any{"mediaType": mediaType, "digest": fmt.Sprintf("sha256:%x", sha256.Sum256(b)), "size": len(b)}
}

// indexes are four, each but the first one of which names the one before 10 times, and what the first one names.
func indexes(t *testing.T) (last []byte, others [][]byte) {
	t.Helper()
	config := fmt.Appendf(nil, `{"architecture":%q,"os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":[]}}`, goruntime.GOARCH)
	last = encode(t, map[string]any{"schemaVersion": 2, "mediaType": manifestType, "config": descriptor("application/vnd.oci.image.config.v1+json", config), "layers": []any{}})
	others = append(others, config)
	kind := manifestType
	for range 4 {
		others = append(others, last)
		var ten []any
		for range 10 {
			ten = append(ten, descriptor(kind, last))
		}
		last, kind = encode(t, map[string]any{"schemaVersion": 2, "mediaType": indexType, "manifests": ten}), indexType
	}
	return last, others
}

// layout is an OCI layout of blobs with an index that names one document.
func layout(t *testing.T, mediaType string, document []byte, blobs ...[]byte) []byte {
	t.Helper()
	digest := func(b []byte) string { return fmt.Sprintf("%x", sha256.Sum256(b)) }
	entries := []entry{{name: "oci-layout", content: `{"imageLayoutVersion":"1.0.0"}`}}
	for _, b := range append(blobs, document) {
		entries = append(entries, entry{name: "blobs/sha256/" + digest(b), content: string(b)})
	}
	index := fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"mediaType":%q,"digest":"sha256:%s","size":%d,"annotations":{"io.containerd.image.name":"docker.io/library/hostile:1"}}]}`,
		mediaType, digest(document), len(document))
	return archiveOf(t, append(entries, entry{name: "index.json", content: index})...)
}

// TestHostileArchivesLeaveNoImages: what is refused for its documents has not become a record of an image.
func TestHostileArchivesLeaveNoImages(t *testing.T) {
	r, _ := open(t, runtimetest.StartDaemon(t), nil)
	ctx, cancel := context.WithTimeout(r.ns(context.Background()), time.Minute)
	defer cancel()
	r.limits = imageLimits{bytes: 64 << 20, entries: 100, names: 1 << 20, document: 10000, elements: 500, images: 3}
	large := bytes.Repeat([]byte(" "), 20000)
	largeConfig := func(mediaType string) []byte {
		return layout(t, manifestType, encode(t, map[string]any{"schemaVersion": 2, "mediaType": manifestType, "config": descriptor(mediaType, large), "layers": []any{}}), large)
	}
	empty := func(field string) []byte { return []byte(`{"` + field + `":[` + strings.Repeat("{},", 500) + `{}]}`) }
	configured := func(config map[string]any, blobs ...[]byte) []byte {
		return layout(t, manifestType, encode(t, map[string]any{"schemaVersion": 2, "mediaType": manifestType, "config": config, "layers": []any{}}), blobs...)
	}
	embedded := descriptor(manifestType, empty("layers"))
	embedded["data"] = empty("layers")
	// An image for another platform beside one for this: it is recorded too.
	foreign := func(config []byte) []byte {
		small := fmt.Appendf(nil, `{"architecture":%q,"os":"linux","rootfs":{"type":"layers","diff_ids":[]}}`, goruntime.GOARCH)
		entries := []entry{{name: "oci-layout", content: `{"imageLayoutVersion":"1.0.0"}`}}
		var manifests []any
		for i, c := range [][]byte{small, config} {
			manifest := encode(t, map[string]any{"mediaType": manifestType, "config": descriptor("application/x-other", c), "layers": []any{}})
			named := descriptor(manifestType, manifest)
			named["annotations"] = map[string]string{"io.containerd.image.name": fmt.Sprintf("docker.io/library/hostile:%d", i)}
			named["platform"] = map[string]string{"os": "linux", "architecture": []string{goruntime.GOARCH, "other"}[i]}
			manifests = append(manifests, named)
			entries = append(entries, entry{name: fmt.Sprint("config", i), content: string(c)}, entry{name: fmt.Sprint("manifest", i), content: string(manifest)})
		}
		return archiveOf(t, append(entries, entry{name: "index.json", content: string(encode(t, map[string]any{"manifests": manifests}))})...)
	}
	bomb, fuses := indexes(t)
	var many bytes.Buffer
	var images []ociimage.Image
	for i := range 4 {
		images = append(images, ociimage.Image{Name: fmt.Sprintf("docker.io/library/many:%d", i)})
	}
	if err := ociimage.Write(&many, images...); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		archive []byte
		says    string
	}{
		"a large manifest":                 {layout(t, manifestType, large), "has more than 10000 bytes"},
		"a large configuration":            {largeConfig("application/vnd.oci.image.config.v1+json"), "has more than 10000 bytes"},
		"a large one of no type":           {largeConfig("application/x-other"), "has more than 10000 bytes"},
		"a large one of docker's":          {archiveOf(t, entry{name: "c.json", content: string(large)}, entry{name: "manifest.json", content: `[{"Config":"c.json","RepoTags":["x:1"]}]`}), "has more than 10000 bytes"},
		"a manifest of many elements":      {layout(t, manifestType, empty("layers")), "has more than 500 elements"},
		"an index of many elements":        {layout(t, indexType, empty("manifests")), "has more than 500 elements"},
		"an index.json of many elements":   {archiveOf(t, entry{name: "oci-layout", content: `{"imageLayoutVersion":"1.0.0"}`}, entry{name: "index.json", content: string(empty("manifests"))}), "has more than 500 elements"},
		"a configuration of many elements": {configured(descriptor("application/x-other", empty("history")), empty("history")), "has more than 500 elements"},
		"one for another platform":         {foreign(empty("history")), "has more than 500 elements"},
		"a large one for another platform": {foreign(large), "has more than 10000 bytes"},
		"an embedded manifest":             {layout(t, indexType, encode(t, map[string]any{"manifests": []any{embedded}})), "has more than 500 elements"},
		"no archive":                       {[]byte("# Read me\n"), "not an image archive (tar)"},
		"no archive, of more bytes":        {bytes.Repeat([]byte("# Read me\n"), 1000), "not an image archive (tar)"},
		"indexes that name each other":     {layout(t, indexType, bomb, fuses...), "lead to more than 100 descriptors"},
		"too many images":                  {many.Bytes(), "the archive names 4 images, more than 3"},
		"an index without a name":          {archiveOf(t, entry{name: "oci-layout", content: `{"imageLayoutVersion":"1.0.0"}`}, entry{name: "index.json", content: "{}"}), "the archive names no image"},
		"more entries than there may be":   {archiveOf(t, make([]entry, 101)...), "it has more than 100 entries"},
		"a size that the disk has not got": {archiveOf(t, entry{name: "a", size: 1 << 50}), "it holds more than"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := r.ImportImage(ctx, bytes.NewReader(c.archive)); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want %q", err, c.says)
			}
			if list, err := r.client.ListImages(ctx); err != nil || len(list) > 0 {
				t.Errorf("%d images are left, %v", len(list), err)
			}
		})
	}
	if list, err := r.ImportImage(ctx, bytes.NewReader(runtimetest.BusyboxArchive(t))); err != nil || len(list) != 1 {
		t.Errorf("an ordinary archive: %v, %v", list, err)
	}
}

// TestElementsAreCountedWithoutMemory: documents within the limit of bytes are refused, and the check itself allocates little.
func TestElementsAreCountedWithoutMemory(t *testing.T) {
	limits := defaultLimits
	for name, document := range map[string]string{
		"a manifest": `{"schemaVersion":2,"layers":[` + strings.Repeat("{},", 1_000_000) + `{}]}`,
		"an index":   `{"schemaVersion":2,"manifests":[` + strings.Repeat("{},", 1_000_000) + `{}]}`,
		"no list":    `{"annotations":{` + strings.Repeat(`"":"",`, 100_000) + `"":""}}`,
		"numbers":    `[` + strings.Repeat("1,", 100_000) + `1]`,
		"nested":     strings.Repeat("[", 1_000_000),
	} {
		t.Run(name, func(t *testing.T) {
			reader := strings.NewReader(document)
			var before, after goruntime.MemStats
			goruntime.ReadMemStats(&before)
			err := limits.checkElements(reader)
			goruntime.ReadMemStats(&after)
			if err == nil {
				t.Error("it is not refused")
			}
			if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
				t.Errorf("%d bytes are allocated", n)
			}
		})
	}
	for name, document := range map[string]string{
		"a long text":        `{"x":"` + strings.Repeat(`{[,\",`, 100_000) + `"}`,
		"a backslash":        `{"x":"\\","y":"` + strings.Repeat(",", 100_000) + `"}`,
		"many layers":        `{"layers":[` + strings.Repeat(`{"mediaType":"a","digest":"b","size":1,"annotations":{"c":"d"}},`, 1000) + `{}]}`,
		"siblings, not deep": `[` + strings.Repeat("[[]],", 1000) + `[]]`,
	} {
		if err := limits.checkElements(strings.NewReader(document)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestHostileRegistriesAreBounded: what is too large or too much is not fetched.
func TestHostileRegistriesAreBounded(t *testing.T) {
	r, _ := open(t, runtimetest.StartDaemon(t), nil)
	r.limits.entries, r.limits.document, r.limits.elements = 30, 10000, 500
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	large := bytes.Repeat([]byte(" "), 20000)
	var layers []any
	for i := range 30 {
		layers = append(layers, descriptor("application/vnd.oci.image.layer.v1.tar", fmt.Append(nil, i)))
	}
	empty := []byte(`{"layers":[` + strings.Repeat("{},", 500) + `{}]}`)
	manyElements := []byte(`{"history":[` + strings.Repeat("{},", 500) + `{}]}`)
	embedded := descriptor(manifestType, empty)
	embedded["data"] = empty
	for name, c := range map[string]struct {
		root []byte
		kind string
		says string
	}{
		"a large manifest":        {large, manifestType, "has more than 10000 bytes"},
		"a large one in an index": {encode(t, map[string]any{"schemaVersion": 2, "mediaType": indexType, "manifests": []any{descriptor(manifestType, large)}}), indexType, "has more than 10000 bytes"},
		"a large configuration":   {encode(t, map[string]any{"schemaVersion": 2, "mediaType": manifestType, "config": descriptor("application/x-other", large), "layers": []any{}}), manifestType, "has more than 10000 bytes"},
		"many elements":           {empty, manifestType, "has more than 500 elements"},
		"many in an index":        {[]byte(`{"manifests":[` + strings.Repeat("{},", 500) + `{}]}`), indexType, "has more than 500 elements"},
		"embedded in an index":    {encode(t, map[string]any{"manifests": []any{embedded}}), indexType, "has more than 500 elements"},
		"a layer to configure it": {encode(t, map[string]any{"schemaVersion": 2, "mediaType": manifestType, "config": descriptor("application/vnd.oci.image.layer.v1.tar", []byte("x")), "layers": []any{}}), manifestType, "has the media type of a layer"},
		"many to configure it":    {encode(t, map[string]any{"schemaVersion": 2, "mediaType": manifestType, "config": descriptor("application/x-other", manyElements), "layers": []any{}}), manifestType, "has more than 500 elements"},
		"many layers":             {encode(t, map[string]any{"schemaVersion": 2, "mediaType": manifestType, "config": descriptor("application/vnd.oci.image.config.v1+json", nil), "layers": layers}), manifestType, "lead to more than 30 descriptors"},
	} {
		t.Run(name, func(t *testing.T) {
			digest := func(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }
			web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, digest(manyElements)) {
					_, _ = w.Write(manyElements)
					return
				}
				if !strings.HasSuffix(r.URL.Path, "/manifests/1") && !strings.HasSuffix(r.URL.Path, digest(c.root)) {
					t.Errorf("asked for %s", r.URL.Path)
					http.NotFound(w, r)
					return
				}
				w.Header().Set("Content-Type", c.kind)
				w.Header().Set("Docker-Content-Digest", digest(c.root))
				w.Header().Set("Content-Length", fmt.Sprint(len(c.root)))
				_, _ = w.Write(c.root)
			}))
			defer web.Close()
			_, err := r.PullImage(ctx, strings.TrimPrefix(web.URL, "http://")+"/hostile:1", runtime.Auth{})
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want %q", err, c.says)
			}
		})
	}
	web, ref, _ := smallRegistry(t)
	defer web.Close()
	if _, err := r.PullImage(ctx, ref, runtime.Auth{}); err != nil {
		t.Errorf("an ordinary image: %v", err)
	}
}
