package volume

import (
	"context"
	"errors"
	"fmt"
	"os"

	corev1 "k8s.io/api/core/v1"
)

// mountHostPath returns the path of a host's folder, file or device.
func (m *Manager) mountHostPath(_ context.Context, r *request) (string, error) {
	s := *r.hostPath()
	if m.c.Kubelet != nil {
		s.Path = m.c.Kubelet.Real(s.Path)
	}
	path, err := hostPath(&s)
	if err == nil && r.block {
		err = blockDevice(path)
	}
	return path, err
}

func hostPath(s *corev1.HostPathVolumeSource) (string, error) {
	kind := corev1.HostPathUnset
	if s.Type != nil {
		kind = *s.Type
	}
	path := s.Path
	st, err := os.Stat(path)
	absent := errors.Is(err, os.ErrNotExist)
	if err != nil && !absent && kind != corev1.HostPathUnset {
		return "", fmt.Errorf("hostPath type check failed: %w", err)
	}
	want := func(ok func(os.FileInfo) bool, what string) (string, error) {
		if absent || !ok(st) {
			return "", fmt.Errorf("hostPath type check failed: %s is not %s", path, what)
		}
		return path, nil
	}
	switch kind {
	case corev1.HostPathUnset:
		if absent { // a runtime creates the missing directory of a mount's source
			return path, os.MkdirAll(path, 0o755)
		}
		return path, err
	case corev1.HostPathDirectoryOrCreate:
		if absent {
			return path, os.MkdirAll(path, 0o755)
		}
		return want(os.FileInfo.IsDir, "a directory")
	case corev1.HostPathDirectory:
		return want(os.FileInfo.IsDir, "a directory")
	case corev1.HostPathFileOrCreate:
		if absent {
			f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
			if err != nil {
				return "", err
			}
			return path, f.Close()
		}
		return want(func(s os.FileInfo) bool { return s.Mode().IsRegular() }, "a file")
	case corev1.HostPathFile:
		return want(func(s os.FileInfo) bool { return s.Mode().IsRegular() }, "a file")
	case corev1.HostPathSocket:
		return want(func(s os.FileInfo) bool { return s.Mode()&os.ModeSocket != 0 }, "a socket")
	case corev1.HostPathCharDev:
		return want(func(s os.FileInfo) bool { return s.Mode()&os.ModeCharDevice != 0 }, "a character device")
	case corev1.HostPathBlockDev:
		return want(func(s os.FileInfo) bool { return s.Mode()&os.ModeDevice != 0 && s.Mode()&os.ModeCharDevice == 0 }, "a block device")
	}
	return "", fmt.Errorf("hostPath type check failed: unknown type %q", kind)
}

// blockDevice returns an error if a path does not lead to a block device.
func blockDevice(path string) error {
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	if st.Mode()&os.ModeDevice == 0 || st.Mode()&os.ModeCharDevice != 0 {
		return fmt.Errorf("%s is not a block device", path)
	}
	return nil
}
