package ociimage

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
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

// TestImagesShareABase: the base is one layer of the archive, below the files of each image.
func TestImagesShareABase(t *testing.T) {
	base := &Base{Files: []File{{Path: "/bin/sh", Data: []byte("shell"), Mode: 0o755}}}
	var archive bytes.Buffer
	if err := Write(&archive, Image{Name: "a:1", Base: base}, Image{Name: "b:1", Base: base, Files: []File{{Path: "/b", Data: []byte("b")}}}); err != nil {
		t.Fatal(err)
	}
	layers, configs := 0, 0
	for r := tar.NewReader(&archive); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(h.Name, "blobs/") {
			continue
		}
		var config struct {
			RootFS struct {
				Layers []string `json:"diff_ids"`
			}
		}
		switch err := json.Unmarshal(content, &config); {
		case err != nil:
			layers++
		case config.RootFS.Layers != nil:
			configs++
			sum := sha256.Sum256(base.layer)
			if config.RootFS.Layers[0] != "sha256:"+hex.EncodeToString(sum[:]) {
				t.Errorf("layers %v", config.RootFS.Layers)
			}
		}
	}
	if layers != 2 || configs != 2 {
		t.Errorf("%d layers of %d images", layers, configs)
	}
}

// TestTree: a directory's files keep their modes and links; what is mounted over in a container stays empty.
func TestTree(t *testing.T) {
	dir := t.TempDir()
	for _, err := range []error{
		os.MkdirAll(filepath.Join(dir, "proc/1"), 0o755), os.Mkdir(filepath.Join(dir, "bin"), 0o755),
		os.WriteFile(filepath.Join(dir, "bin/su"), []byte("x"), 0o755), os.Chmod(filepath.Join(dir, "bin/su"), 0o755|os.ModeSetuid),
		os.Symlink("bin/su", filepath.Join(dir, "su")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	files, err := Tree(dir)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]File{}
	for _, f := range files {
		found[f.Path] = f
	}
	if len(files) != 4 || !found["/proc"].Dir || !found["/bin"].Dir || found["/su"].Link != "bin/su" ||
		found["/bin/su"].Mode != 0o4755 || found["/bin/su"].Source != filepath.Join(dir, "bin/su") {
		t.Errorf("files %+v", files)
	}
}

func TestMissingSource(t *testing.T) {
	if err := Write(io.Discard, Image{Name: "a", Files: []File{{Path: "/x", Source: "/no/such/file"}}}); err == nil {
		t.Error("an image was made of a file that is not there")
	}
}
