package ociimage

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Tree returns the files of a host's directory, with their owners, modes and links, as files of an image. Of /proc, /sys and /dev it
// has only the directories; devices, sockets and pipes are left out.
func Tree(root string) ([]File, error) {
	var out []File
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		f := File{Path: "/" + path[len(filepath.Clean(root))+1:], Mode: modeOf(info.Mode())}
		if owner, ok := info.Sys().(*syscall.Stat_t); ok {
			f.UID, f.GID = int(owner.Uid), int(owner.Gid)
		}
		switch {
		case info.IsDir():
			f.Dir = true
		case info.Mode()&fs.ModeSymlink != 0:
			if f.Link, err = os.Readlink(path); err != nil {
				return err
			}
		case info.Mode().IsRegular():
			f.Source = path
		default:
			return nil
		}
		out = append(out, f)
		if f.Dir && (f.Path == "/proc" || f.Path == "/sys" || f.Path == "/dev") {
			return fs.SkipDir
		}
		return nil
	})
	return out, err
}

// modeOf returns permissions as Unix has them, with the bits for set-user-ID, set-group-ID and sticky.
func modeOf(m fs.FileMode) int64 {
	mode := int64(m.Perm())
	for bit, unix := range map[fs.FileMode]int64{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if m&bit != 0 {
			mode |= unix
		}
	}
	return mode
}
