// Command images builds the images that the demo and the end-to-end tests run, from this project's own programs and
// Debian's busybox, into one archive for `kontiki image import`. It needs no registry.
package main

import (
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/kontiki/kontiki/internal/ociimage"
)

func main() {
	log.SetFlags(0)
	out := flag.String("out", "bin/images.tar", "the archive to write")
	ofVendors := flag.Bool("vendors", false, "build the images of Kubernetes' sample device plugin, of its test driver of dynamic resource allocation and of the CSI driver of the tests instead")
	ofOperators := flag.Bool("operators", false, "build the images of test/operators instead")
	flag.Parse()
	make := build
	if *ofVendors {
		make = buildVendors
	}
	if *ofOperators {
		make = buildOperators
	}
	if err := make(*out); err != nil {
		log.Fatalf("images: %v", err)
	}
}

// programs are the images that contain a single static program.
var programs = []struct{ image, source string }{
	{"docker.io/kontiki/demo-front:1", "./examples/demo/front"},
	{"docker.io/kontiki/demo-front:2", "./examples/demo/front"},
	{"docker.io/kontiki/demo-back:1", "./examples/demo/back"},
}

// vendors are images that contain a program which a vendor would provide, built in the module at a directory. It runs as root.
var vendors = []struct{ image, module, source string }{
	{"docker.io/kontiki/sample-device-plugin:1", "test/upstream", "k8s.io/kubernetes/test/images/sample-device-plugin"},
	{"docker.io/kontiki/dra-test-driver:1", "test/upstream", "k8s.io/kubernetes/test/e2e/dra/test-driver"},
	{"docker.io/kontiki/csidriver:1", ".", "./test/csidriver/cmd"},
}

func build(out string) error {
	dir, err := os.MkdirTemp("", "kontiki-images-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	shell, err := ociimage.Busybox("docker.io/library/busybox:latest")
	if err != nil {
		return err
	}
	tools := shell
	tools.Name = "docker.io/kontiki/tools:1"
	binary := filepath.Join(dir, "tools")
	if err := compile(binary, "./test/images/tools"); err != nil {
		return err
	}
	tools.Files = append(slices.Clone(shell.Files), ociimage.File{Path: "/bin/tools", Source: binary, Mode: 0o755})
	images := []ociimage.Image{shell, tools}
	for _, p := range programs {
		binary := filepath.Join(dir, filepath.Base(p.source))
		if err := compile(binary, p.source); err != nil {
			return err
		}
		images = append(images, ociimage.Image{
			Name: p.image, Entrypoint: []string{"/app"}, User: "65532:65532", Files: []ociimage.File{{Path: "/app", Source: binary, Mode: 0o755}},
		})
	}
	return write(out, images)
}

// buildVendors builds the images of vendors.
func buildVendors(out string) error {
	dir, err := os.MkdirTemp("", "kontiki-images-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var images []ociimage.Image
	for _, p := range vendors {
		binary := filepath.Join(dir, filepath.Base(p.source))
		if err := compileIn(p.module, binary, p.source); err != nil {
			return err
		}
		images = append(images, ociimage.Image{Name: p.image, Entrypoint: []string{"/app"}, Files: []ociimage.File{{Path: "/app", Source: binary, Mode: 0o755}}})
	}
	return write(out, images)
}

func write(out string, images []ociimage.Image) error {
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return err
	}
	return ociimage.WriteFile(out, images...)
}

// compile builds a static program.
func compile(to, source string) error { return compileIn(".", to, source) }

// compileIn builds a static program in the module at a directory.
func compileIn(module, to, source string) error {
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", to, source)
	cmd.Dir = module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", source, err, text)
	}
	return nil
}
