package ociimage

import (
	"archive/tar"
	"bytes"
	"io"
	"testing"
)

func TestSameInputSameBytes(t *testing.T) {
	img := Image{Name: "docker.io/a/b:1", Cmd: []string{"x"}, Labels: map[string]string{"k": "v", "l": "w"},
		Files: []File{{Path: "/bin/x", Data: []byte("data"), Mode: 0o755}, {Path: "/bin/y", Link: "x"}, {Path: "/empty", Dir: true}}}
	var a, b bytes.Buffer
	for _, w := range []io.Writer{&a, &b} {
		if err := Write(w, img); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(a.Bytes(), b.Bytes()) {
		t.Error("two writes differ")
	}
	names := map[string]bool{}
	r := tar.NewReader(&a)
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if names[h.Name] {
			t.Errorf("%s is there twice", h.Name)
		}
		names[h.Name] = true
	}
	if !names["index.json"] || !names["oci-layout"] || len(names) != 5 {
		t.Errorf("entries %v", names)
	}
}

func TestMissingSource(t *testing.T) {
	if err := Write(io.Discard, Image{Name: "a", Files: []File{{Path: "/x", Source: "/no/such/file"}}}); err == nil {
		t.Error("an image was made of a file that is not there")
	}
}
