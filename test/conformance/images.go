package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/kontiki/kontiki/internal/ociimage"
)

const (
	upstreamRegistry = "registry.k8s.io/"
	searchPath       = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// debianPackages are what the images contain beside the test programs.
var debianPackages = []string{"bash", "curl", "dnsutils", "iproute2", "netcat-openbsd", "iputils-ping", "procps", "util-linux", "socat",
	"iperf", "nginx-light", "ca-certificates", "stress"}

// buildImages writes an archive with the images of the suite under their upstream names, made from Debian's packages, upstream's test
// programs and the data files that these need from upstream's source. root is a directory for Debian's files.
func buildImages(archive, programs, root string) error {
	if err := debian(root); err != nil {
		return err
	}
	sources, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "k8s.io/kubernetes").Output()
	if err != nil {
		return fmt.Errorf("find the source of k8s.io/kubernetes: %w", err)
	}
	images, err := suiteImages(root, programs, filepath.Join(strings.TrimSpace(string(sources)), "test/images"))
	if err != nil {
		return err
	}
	return writeWhole(archive, images)
}

// writeWhole writes the archive such that it exists only if it is complete.
func writeWhole(archive string, images []ociimage.Image) error {
	part := archive + ".part"
	defer os.Remove(part)
	if err := ociimage.WriteFile(part, images...); err != nil {
		return err
	}
	return os.Rename(part, archive)
}

// debian installs Debian's packages in a directory, if that has not been done.
func debian(root string) error {
	if _, err := os.Stat(filepath.Join(root, "complete")); err == nil {
		return nil
	}
	if err := os.RemoveAll(root); err != nil {
		return err
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	files := filepath.Join(root, "files")
	for _, command := range [][]string{
		{"debootstrap", "--variant=minbase", "--include=" + strings.Join(debianPackages, ","), "bookworm", files},
		// The accounts that tests of supplemental groups expect in the image of agnhost.
		{"chroot", files, "groupadd", "-g", "50000", "group-defined-in-image"},
		{"chroot", files, "useradd", "-u", "1000", "-G", "group-defined-in-image", "-M", "-s", "/bin/sh", "user-defined-in-image"},
	} {
		if text, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", strings.Join(command, " "), err, text)
		}
	}
	for _, unneeded := range []string{"var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale"} {
		if err := os.RemoveAll(filepath.Join(files, unneeded)); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(root, "complete"), nil, 0o644)
}

// suiteImages returns the images that conformance tests run.
func suiteImages(root, programs, sources string) ([]ociimage.Image, error) {
	tree, err := ociimage.Tree(filepath.Join(root, "files"))
	if err != nil {
		return nil, err
	}
	base := &ociimage.Base{Files: append(tree,
		ociimage.File{Path: "/uploads", Dir: true},
		ociimage.File{Path: "/var/log/nginx/access.log", Link: "/proc/self/fd/1"},
		ociimage.File{Path: "/var/log/nginx/error.log", Link: "/proc/self/fd/2"})}
	program := func(path, name string) ociimage.File {
		return ociimage.File{Path: path, Source: filepath.Join(programs, name), Mode: 0o755}
	}
	data := func(path, source string) ociimage.File {
		return ociimage.File{Path: path, Source: filepath.Join(sources, source)}
	}
	agnhost := []ociimage.File{program("/agnhost", "agnhost"), {Path: "/agnhost-2", Link: "agnhost"},
		data("/localhost.crt", "agnhost/porter/localhost.crt"), data("/localhost.key", "agnhost/porter/localhost.key")}
	image := func(name string, entrypoint, cmd []string, files ...ociimage.File) ociimage.Image {
		return ociimage.Image{Name: upstreamRegistry + name, Base: base, Files: files, Entrypoint: entrypoint, Cmd: cmd, Env: []string{searchPath}}
	}
	runAgnhost := []string{"/agnhost"}
	nginx := func(version string) ociimage.Image {
		i := image("e2e-test-images/nginx:"+version, nil, []string{"nginx", "-g", "daemon off;"})
		i.Env = append(i.Env, "NGINX_VERSION="+version) // so that the images of two versions differ
		return i
	}
	nonRoot := image("e2e-test-images/nonroot:1.5", runAgnhost, []string{"pause"}, agnhost...)
	nonRoot.User = "1234"
	// It runs set-user-ID, to show that privileges cannot be gained.
	noNewPrivileges := program("/usr/local/bin/nnp", "nonewprivs")
	noNewPrivileges.Mode = 0o4755
	site := func(name string) ociimage.Image {
		return image("e2e-test-images/"+name+":1.8", runAgnhost, []string{"test-webserver"}, append(slices.Clone(agnhost),
			data("/"+name+".jpg", name+"/html/"+name+".jpg"), data("/data.json", name+"/html/data.json"))...)
	}
	shell, err := busybox()
	if err != nil {
		return nil, err
	}
	pause := ociimage.Image{Name: upstreamRegistry + "pause:3.10.2", Files: agnhost[:1], Entrypoint: runAgnhost, Cmd: []string{"pause"}}
	return []ociimage.Image{
		image("e2e-test-images/agnhost:2.66.1", runAgnhost, []string{"pause"}, agnhost...),
		image("e2e-test-images/agnhost:2.55", runAgnhost, []string{"pause"}, agnhost...),
		shell, nginx("1.27.0-2"), nginx("1.28.0-2"), nonRoot, site("nautilus"), site("kitten"),
		image("e2e-test-images/perl:5.26", nil, []string{"sh"}),
		image("e2e-test-images/glibc-dns-testing:2.1.1", nil, []string{"sh"}),
		image("e2e-test-images/ipc-utils:1.4", nil, []string{"sh"}),
		image("e2e-test-images/nonewprivs:1.4", nil, []string{"nnp"}, noNewPrivileges),
		image("e2e-test-images/regression-issue-74839:1.5", []string{"/regression-issue-74839"}, nil, program("/regression-issue-74839", "regression-issue-74839")),
		image("e2e-test-images/resource-consumer:1.14", []string{"/consumer"}, nil,
			program("/consumer", "resource-consumer"), program("/consume-cpu/consume-cpu", "consume-cpu")),
		image("e2e-test-images/sample-apiserver:1.29.2", []string{"/sample-apiserver"}, nil, program("/sample-apiserver", "sample-apiserver")),
		image("etcd:3.7.0-0", nil, nil, program("/usr/local/bin/etcd", "etcd")),
		pause,
	}, nil
}

// busybox returns the busybox image with bash as its sh: Debian's ash drops environment variables whose names are no identifiers.
func busybox() (ociimage.Image, error) {
	img, err := ociimage.Busybox(upstreamRegistry + "e2e-test-images/busybox:1.37.0-2")
	if err != nil {
		return img, err
	}
	bash, err := exec.LookPath("bash-static")
	if err != nil {
		return img, fmt.Errorf("bash-static is not installed (apt-get install bash-static): %w", err)
	}
	img.Files = append(img.Files, ociimage.File{Path: "/bin/bash", Source: bash, Mode: 0o755}, ociimage.File{Path: "/bin/sh", Link: "bash"})
	return img, nil
}
