// Package ociimage writes container images as OCI layout archives, from files and a configuration. Tests and the demo use it to
// build their images without a registry or an image builder. The same input gives the same bytes.
package ociimage

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"sort"
	"strings"
	"sync"
)

// File is one file, directory or link of an image.
type File struct {
	Path string // absolute in the image
	// Data is the content, unless Source names a file of the host to copy. Link makes it a symbolic link.
	Data     []byte
	Source   string
	Link     string
	Dir      bool
	Mode     int64 // 0 means 0644, or 0755 for directories
	UID, GID int
}

// Image describes an image to write.
type Image struct {
	// Name is the complete reference, such as "docker.io/library/demo:1".
	Name string
	// Arch is a Go architecture; "" means this program's.
	Arch string
	// Base, if not nil, is the layer below the files. Images of one archive may share it.
	Base       *Base
	Files      []File
	Entrypoint []string
	Cmd        []string
	Env        []string
	WorkingDir string
	User       string
	StopSignal string
	Labels     map[string]string
}

// Base is a layer that several images share. It must not be changed after the first image with it was written.
type Base struct {
	Files []File

	once  sync.Once
	layer []byte
	err   error
}

func (b *Base) bytes() ([]byte, error) {
	b.once.Do(func() { b.layer, b.err = layerOf(b.Files) })
	return b.layer, b.err
}

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Platform    map[string]string `json:"platform,omitempty"`
}

// Write writes an archive of the images. They share no layers but a Base.
func Write(w io.Writer, images ...Image) error {
	tw := tar.NewWriter(w)
	seen := map[string]bool{}
	blob := func(b []byte) (string, error) {
		sum := sha256.Sum256(b)
		digest := hex.EncodeToString(sum[:])
		if seen[digest] {
			return "sha256:" + digest, nil
		}
		seen[digest] = true
		return "sha256:" + digest, add(tw, "blobs/sha256/"+digest, b)
	}
	if err := add(tw, "oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)); err != nil {
		return err
	}
	var manifests []descriptor
	for _, img := range images {
		d, err := writeImage(blob, img)
		if err != nil {
			return fmt.Errorf("image %s: %w", img.Name, err)
		}
		manifests = append(manifests, d)
	}
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests})
	if err != nil {
		return err
	}
	if err := add(tw, "index.json", index); err != nil {
		return err
	}
	return tw.Close()
}

// WriteFile writes an archive to a file.
func WriteFile(name string, images ...Image) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := Write(f, images...); err != nil {
		return err
	}
	return f.Close()
}

func writeImage(blob func([]byte) (string, error), img Image) (descriptor, error) {
	arch := img.Arch
	if arch == "" {
		arch = runtime.GOARCH
	}
	var layers []descriptor
	var digests []string
	addLayer := func(layer []byte, err error) error {
		if err != nil {
			return err
		}
		digest, err := blob(layer)
		layers = append(layers, descriptor{MediaType: "application/vnd.oci.image.layer.v1.tar", Digest: digest, Size: int64(len(layer))})
		digests = append(digests, digest)
		return err
	}
	if img.Base != nil {
		if err := addLayer(img.Base.bytes()); err != nil {
			return descriptor{}, err
		}
	}
	if img.Base == nil || len(img.Files) > 0 {
		if err := addLayer(layerOf(img.Files)); err != nil {
			return descriptor{}, err
		}
	}
	config, err := json.Marshal(map[string]any{
		"architecture": arch, "os": "linux",
		"config": map[string]any{"Entrypoint": img.Entrypoint, "Cmd": img.Cmd, "Env": img.Env, "WorkingDir": img.WorkingDir,
			"User": img.User, "StopSignal": img.StopSignal, "Labels": img.Labels},
		"rootfs": map[string]any{"type": "layers", "diff_ids": digests},
	})
	if err != nil {
		return descriptor{}, err
	}
	configDigest, err := blob(config)
	if err != nil {
		return descriptor{}, err
	}
	manifest, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
		"config": descriptor{MediaType: "application/vnd.oci.image.config.v1+json", Digest: configDigest, Size: int64(len(config))},
		"layers": layers,
	})
	if err != nil {
		return descriptor{}, err
	}
	digest, err := blob(manifest)
	if err != nil {
		return descriptor{}, err
	}
	return descriptor{MediaType: "application/vnd.oci.image.manifest.v1+json", Digest: digest, Size: int64(len(manifest)),
		Platform:    map[string]string{"os": "linux", "architecture": arch},
		Annotations: map[string]string{"io.containerd.image.name": img.Name, "org.opencontainers.image.ref.name": tagOf(img.Name)}}, nil
}

func tagOf(name string) string {
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		return name[i+1:]
	}
	return "latest"
}

// layerOf returns a layer with the files and all directories above them.
func layerOf(files []File) ([]byte, error) {
	all := map[string]File{}
	for _, f := range files {
		p := strings.Trim(path.Clean("/"+f.Path), "/")
		all[p] = f
		for d := path.Dir(p); d != "." && d != "/"; d = path.Dir(d) {
			if _, ok := all[d]; !ok {
				all[d] = File{Dir: true}
			}
		}
	}
	names := make([]string, 0, len(all))
	for n := range all {
		names = append(names, n)
	}
	sort.Strings(names)
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, n := range names {
		f := all[n]
		h := &tar.Header{Name: n, Mode: f.Mode, Uid: f.UID, Gid: f.GID, Format: tar.FormatPAX}
		data := f.Data
		switch {
		case f.Dir:
			h.Typeflag, h.Name = tar.TypeDir, n+"/"
			if h.Mode == 0 {
				h.Mode = 0o755
			}
		case f.Link != "":
			h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, f.Link, 0o777
		default:
			h.Typeflag = tar.TypeReg
			if f.Source != "" {
				b, err := os.ReadFile(f.Source)
				if err != nil {
					return nil, err
				}
				data = b
			}
			if h.Mode == 0 {
				h.Mode = 0o644
			}
			h.Size = int64(len(data))
		}
		if err := tw.WriteHeader(h); err != nil {
			return nil, err
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := tw.Write(data); err != nil {
				return nil, err
			}
		}
	}
	if err := tw.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

func add(tw *tar.Writer, name string, b []byte) error {
	if err := tw.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(b)), Typeflag: tar.TypeReg}); err != nil {
		return err
	}
	_, err := tw.Write(b)
	return err
}
