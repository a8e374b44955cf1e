// Package csidriver is a CSI driver for tests. Its volumes are folders, and files for block volumes, of one folder that all nodes share. It is
// complete in what Kontiki uses: volumes are attached, staged, published, expanded, measured, and refuse what the specification refuses. Every
// operation of the node service is recorded, so that tests can look at what a driver was told.
package csidriver

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Name is the driver's.
const Name = "folders.csi.kontiki.test"

// volume is what the driver keeps of a volume, in meta.json beside its data.
type volume struct {
	ID       string `json:"id"`
	Name     string `json:"name"`
	Capacity int64  `json:"capacity"`
	Block    bool   `json:"block"`
	// Node is the size for which the node was told to make the file system.
	Node int64 `json:"node"`
	// Attached has the nodes to which it is attached, and whether read-only.
	Attached map[string]bool `json:"attached"`
	// Published has the targets at which it is published.
	Published map[string]bool `json:"published"`
}

// store has the volumes in a folder. Several processes may use it.
type store struct{ dir string }

func (s *store) path(id string, parts ...string) string {
	return filepath.Join(append([]string{s.dir, "volumes", id}, parts...)...)
}

// idOf is the ID of the volume of a name.
func idOf(name string) string { return fmt.Sprintf("vol-%x", sha256.Sum256([]byte(name)))[:28] }

// locked runs f while no other process changes the store.
func (s *store) locked(f func() error) error {
	if err := os.MkdirAll(filepath.Join(s.dir, "volumes"), 0o755); err != nil {
		return err
	}
	lock, err := os.OpenFile(filepath.Join(s.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return err
	}
	return f()
}

// load returns a volume, nil if there is none.
func (s *store) load(id string) (*volume, error) {
	if id == "" || !filepath.IsLocal(id) || filepath.Base(id) != id {
		return nil, nil
	}
	data, err := os.ReadFile(s.path(id, "meta.json"))
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENAMETOOLONG) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	v := &volume{}
	return v, json.Unmarshal(data, v)
}

func (s *store) save(v *volume) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	temporary := s.path(v.ID, ".meta.json")
	if err := os.WriteFile(temporary, data, 0o600); err != nil {
		return err
	}
	return os.Rename(temporary, s.path(v.ID, "meta.json"))
}

func (s *store) create(v *volume) error {
	if err := os.MkdirAll(s.path(v.ID), 0o755); err != nil {
		return err
	}
	if v.Block {
		if err := os.WriteFile(s.path(v.ID, "data"), nil, 0o600); err != nil {
			return err
		}
		if err := os.Truncate(s.path(v.ID, "data"), v.Capacity); err != nil {
			return err
		}
	} else if err := os.MkdirAll(s.path(v.ID, "data"), 0o755); err != nil {
		return err
	}
	return s.save(v)
}

// list returns all volumes in the order of their IDs.
func (s *store) list() ([]*volume, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, "volumes"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var out []*volume
	for _, e := range entries {
		v, err := s.load(e.Name())
		if err != nil {
			return nil, err
		}
		if v != nil {
			out = append(out, v)
		}
	}
	slices.SortFunc(out, func(a, b *volume) int { return strings.Compare(a.ID, b.ID) })
	return out, nil
}

// addNode makes a node known to the controller.
func (s *store) addNode(id string) error {
	if err := os.MkdirAll(filepath.Join(s.dir, "nodes"), 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(s.dir, "nodes", id), nil, 0o600)
}

func (s *store) hasNode(id string) bool {
	_, err := os.Lstat(filepath.Join(s.dir, "nodes", filepath.Base(id)))
	return err == nil && id != ""
}
