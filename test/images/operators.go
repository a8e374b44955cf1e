package main

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/kontiki/kontiki/internal/ociimage"
)

const unprivileged = "65532:65532"

// operators are images of one program each, built in the module at a directory, with the versions of libraries that its go.mod names.
var operators = []struct{ image, module, source, user string }{
	{"docker.io/kontiki/metrics-server:1", "test/operators/metricsserver", "sigs.k8s.io/metrics-server/cmd/metrics-server", unprivileged},
	{"docker.io/kontiki/cert-manager-controller:1", "test/operators/certmanager", "./controller", unprivileged},
	{"docker.io/kontiki/cert-manager-webhook:1", "test/operators/certmanager", "./webhook", unprivileged},
	{"docker.io/kontiki/cert-manager-cainjector:1", "test/operators/certmanager", "./cainjector", unprivileged},
	{"docker.io/kontiki/memcached-operator:1", "test/operators/memcached", ".", unprivileged},
	// The manifests of the sample ask for these names, and for root: the server listens at port 443, and both write to the root folder.
	{"docker.io/library/kube-sample-apiserver:latest", "test/operators/sampleapiserver", "k8s.io/sample-apiserver", ""},
	{"registry.k8s.io/etcd:v3.7.0", "test/bench/etcd", "go.etcd.io/etcd/server/v3", ""},
}

// buildOperators builds the images of operators, one after another: their programs are large.
func buildOperators(out string) error {
	dir, err := os.MkdirTemp("", "kontiki-images-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var images []ociimage.Image
	for _, p := range operators {
		binary := filepath.Join(dir, strings.ReplaceAll(p.image, "/", "_"))
		if err := compileIn(p.module, binary, p.source); err != nil {
			return err
		}
		images = append(images, ociimage.Image{Name: p.image, Entrypoint: []string{"/app"}, User: p.user, Files: []ociimage.File{{Path: "/app", Source: binary, Mode: 0o755}}})
	}
	return write(out, images)
}
