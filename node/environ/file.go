package environ

import (
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/internal/beneath"
)

// maxEnvFile limits the size of a file of variables, which is read into memory for each of them.
const maxEnvFile = 1 << 20

// fileKey reads one variable from a file that a container wrote into a volume.
func fileKey(ref *corev1.FileKeySelector, volumes map[string]string) (value string, ok bool, err error) {
	dir, known := volumes[ref.VolumeName]
	if !known {
		return "", false, fmt.Errorf("cannot find the volume %q referenced by FileKeyRef", ref.VolumeName)
	}
	b, err := beneath.ReadFile(dir, ref.Path, beneath.Follow, maxEnvFile)
	if err == nil {
		value, err = parseEnvFile(string(b), ref.Key)
	}
	if err != nil {
		return "", false, fmt.Errorf("couldn't parse env file: %w", err)
	}
	if value == "" && !optional(ref.Optional) {
		return "", false, fmt.Errorf("environment variable key %q not found in file %q", ref.Key, ref.Path)
	}
	return value, value != "", nil
}

// parseEnvFile returns a variable from a file of lines NAME='value', in the kubelet's format: characters between the quotes are
// literal, newlines included; blank lines and lines with # are skipped, and so is a comment after the value. NAME= followed by
// white space is an empty value. A missing name is an empty value.
func parseEnvFile(content, key string) (string, error) {
	lines := strings.Split(strings.TrimSuffix(content, "\n"), "\n")
	for i := 0; i < len(lines); i++ {
		line := strings.TrimLeft(strings.TrimSuffix(lines[i], "\r"), " \t")
		if line == "" || line[0] == '#' {
			continue
		}
		bad := func(format string, args ...any) (string, error) {
			return "", fmt.Errorf("invalid environment variable format at line %d: "+format, append([]any{i + 1}, args...)...)
		}
		name, rest, found := strings.Cut(line, "=")
		switch {
		case !found:
			return bad("missing '='")
		case strings.TrimRight(name, " \t") == "":
			return bad("empty variable name")
		case strings.TrimRight(name, " \t") != name:
			return bad("whitespace before '=' is not allowed")
		case rest != strings.TrimLeft(rest, " \t"):
			if name == key {
				return "", nil
			}
			continue
		case !strings.HasPrefix(rest, "'"):
			return bad("value must be enclosed in single quotes")
		}
		value, after, closed := strings.Cut(rest[1:], "'")
		for ; !closed; value, after, closed = cutMore(value, lines[i]) {
			if i++; i == len(lines) {
				return "", errors.New("invalid environment variable format: unclosed single quote")
			}
		}
		if after = strings.TrimLeft(after, " \t"); after != "" && after[0] != '#' {
			return bad("unexpected content after closing quote")
		}
		if name == key {
			return value, nil
		}
	}
	return "", nil
}

// cutMore continues a value on its next line.
func cutMore(value, line string) (string, string, bool) {
	more, after, closed := strings.Cut(strings.TrimSuffix(line, "\r"), "'")
	return value + "\n" + more, after, closed
}
