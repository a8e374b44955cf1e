package ociimage

import (
	"bytes"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// Busybox returns an image of the host's static busybox (Debian: busybox-static) with a link for each applet, and a few accounts.
func Busybox(name string) (Image, error) {
	path, err := exec.LookPath("busybox")
	if err != nil {
		return Image{}, fmt.Errorf("busybox is not installed (apt-get install busybox-static): %w", err)
	}
	f, err := elf.Open(path)
	if err != nil {
		return Image{}, err
	}
	libs, err := f.ImportedLibraries()
	f.Close()
	if err != nil || len(libs) > 0 {
		return Image{}, fmt.Errorf("%s is not static (apt-get install busybox-static)", path)
	}
	out, err := exec.Command(path, "--list").Output()
	if err != nil {
		return Image{}, err
	}
	bin, err := os.ReadFile(path)
	if err != nil {
		return Image{}, err
	}
	img := Image{Name: name, Cmd: []string{"sh"}, Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}}
	img.Files = append(img.Files,
		File{Path: "/bin/busybox", Data: bin, Mode: 0o755},
		File{Path: "/etc/passwd", Data: []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\nalice:x:1000:1000::/:/bin/sh\n")},
		File{Path: "/etc/group", Data: []byte("root:x:0:\nwheel:x:10:root\nalice:x:1000:\nstaff:x:50:alice\nnogroup:x:65534:\n")},
		File{Path: "/tmp", Dir: true, Mode: 0o1777},
		File{Path: "/root", Dir: true, Mode: 0o700},
		File{Path: "/var", Dir: true}, File{Path: "/proc", Dir: true}, File{Path: "/sys", Dir: true}, File{Path: "/dev", Dir: true},
	)
	for a := range strings.FieldsSeq(string(bytes.TrimSpace(out))) {
		if a != "busybox" {
			img.Files = append(img.Files, File{Path: "/bin/" + a, Link: "busybox"})
		}
	}
	return img, nil
}
