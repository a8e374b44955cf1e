// Package mounts finds out what is mounted on the host.
package mounts

import (
	"os"
	"path/filepath"
	"strings"
)

// At says whether dir is the root of a mount.
func At(dir string) bool {
	for _, p := range Below(filepath.Dir(dir)) {
		if p == dir {
			return true
		}
	}
	return false
}

// Below returns the mounts below dir, deepest and latest first.
func Below(dir string) []string {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	var out []string
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 5 {
			continue
		}
		path := unescape(f[4])
		if strings.HasPrefix(path, dir+"/") {
			out = append([]string{path}, out...)
		}
	}
	return out
}

// unescape decodes the octal escapes of mountinfo.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}
