// Package durable changes files and directories so that a crash or a power loss leaves the old state or the new one, never a part
// of it.
//
// A file's content is durable after a sync of the file, its name only after a sync of its directory. Every function of this package
// does both before it returns nil. After an error, either the old or the new state exists, and it is unknown which.
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// WriteFile replaces a file atomically. The directory must exist.
func WriteFile(path string, data []byte, perm fs.FileMode) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".tmp-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	renamed := false
	defer func() {
		if err != nil && !renamed {
			err = errors.Join(fmt.Errorf("write %s: %w", path, err), f.Close(), os.Remove(f.Name()))
		}
	}()
	if err := f.Chmod(perm); err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	renamed = true
	if err := f.Close(); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return SyncDir(dir)
}

// Rename moves a file or a directory, whose content must already be durable. It replaces what is at the new name, as rename(2)
// does.
func Rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	if err := SyncDir(filepath.Dir(to)); err != nil || filepath.Dir(from) == filepath.Dir(to) {
		return err
	}
	return SyncDir(filepath.Dir(from))
}

// SyncDir makes the entries of a directory durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync directory %s: %w", dir, err)
	}
	return nil
}

// MakeDir creates a directory and its missing parents. A directory that already exists is synced too: there may have been a crash
// between its creation and the sync of its parent.
func MakeDir(dir string, perm fs.FileMode) error {
	dir = filepath.Clean(dir)
	parents := []string{filepath.Dir(dir)}
	for p := parents[0]; p != filepath.Dir(p); p = filepath.Dir(p) {
		if _, err := os.Stat(p); err == nil {
			break
		}
		parents = append(parents, filepath.Dir(p))
	}
	if err := os.MkdirAll(dir, perm); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	for _, p := range parents {
		if err := SyncDir(p); err != nil {
			return err
		}
	}
	return nil
}
