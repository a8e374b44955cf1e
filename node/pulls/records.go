// Package pulls remembers with which credentials images were pulled, so that an image that needs credentials is used only by pods that
// have such. An image of which there is no record was there before the agent or was imported, and every pod may use it.
//
// Each pull is announced with Begin, and ends with Succeeded or Failed. Before a pod uses an image that is there already, MustPull says
// whether the registry must accept the pod's own credentials first.
package pulls

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/distribution/reference"

	"github.com/kontiki/kontiki/node/runtime"
)

// Records are what is known about the pulls of a node. They may be used concurrently.
//
// The directory "pulled" has a file for each image, named by its ID, and "pulling" one for each name that is being pulled: if the agent
// ends while it pulls, the image is known to need credentials.
type Records struct {
	dir string

	mu      sync.Mutex
	pulled  map[string]record // by image ID
	pulling map[string]int    // pulls, and pulls of an earlier agent that did not end, by image name
}

// record has the credentials with which an image may be pulled, by the name of the repository.
type record struct {
	Image       string                 `json:"image"` // its ID
	Credentials map[string]credentials `json:"credentials"`
}

type credentials struct {
	// Anybody means that no credentials are needed.
	Anybody bool     `json:"anybody,omitempty"`
	Secrets []Secret `json:"secrets,omitempty"`
}

// Secret identifies a Secret of a pod, with a hash of what it contained for a registry.
type Secret struct {
	UID, Namespace, Name, Hash string
}

// maxSecrets limits how many Secrets are remembered for one repository of an image: the oldest are forgotten.
const maxSecrets = 100

// Open returns the records that are stored in a directory, which it makes if necessary; "" forgets them with the process. What cannot be
// read is logged and left out.
func Open(dir string) *Records {
	r := &Records{dir: dir, pulled: map[string]record{}, pulling: map[string]int{}}
	if dir == "" {
		return r
	}
	for _, d := range []string{"pulled", "pulling"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			slog.Warn("records of image pulls cannot be stored", "err", err)
		}
	}
	r.read("pulled", func(b []byte) error {
		var p record
		if err := json.Unmarshal(b, &p); err != nil {
			return err
		}
		r.pulled[p.Image] = p
		return nil
	})
	r.read("pulling", func(b []byte) error {
		r.pulling[string(b)]++
		return nil
	})
	return r
}

func (r *Records) read(kind string, each func([]byte) error) {
	entries, err := os.ReadDir(filepath.Join(r.dir, kind))
	if err != nil {
		slog.Warn("records of image pulls cannot be read", "err", err)
		return
	}
	for _, e := range entries {
		path := filepath.Join(r.dir, kind, e.Name())
		b, err := os.ReadFile(path)
		if err == nil {
			err = each(b)
		}
		if err != nil {
			slog.Warn("a record of an image pull cannot be read", "file", path, "err", err)
		}
	}
}

func (r *Records) path(kind, name string) string {
	sum := sha256.Sum256([]byte(name))
	return filepath.Join(r.dir, kind, hex.EncodeToString(sum[:]))
}

func (r *Records) write(kind, name string, data []byte) error {
	if r.dir == "" {
		return nil
	}
	path := r.path(kind, name)
	if err := os.WriteFile(path+".tmp", data, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}

func (r *Records) remove(kind, name string) {
	if r.dir == "" {
		return
	}
	if err := os.Remove(r.path(kind, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		slog.Warn("a record of an image pull cannot be removed", "err", err)
	}
}

// Begin records that an image is being pulled. Without an error, Failed or Succeeded must follow.
func (r *Records) Begin(name string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pulling[name]++
	if r.pulling[name] > 1 {
		return nil
	}
	if err := r.write("pulling", name, []byte(name)); err != nil {
		r.forgetPull(name)
		return fmt.Errorf("Failed to record image pull intent for container image %q: %w", name, err)
	}
	return nil
}

// forgetPull ends one pull of a name. The caller holds mu.
func (r *Records) forgetPull(name string) {
	if r.pulling[name]--; r.pulling[name] <= 0 {
		delete(r.pulling, name)
		r.remove("pulling", name)
	}
}

// Failed ends a pull without success.
func (r *Records) Failed(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.forgetPull(name)
}

// Succeeded ends a pull of an image, which has the given ID, and records the Secret whose credentials the registry accepted: nil means
// that every pod may use the image, as the registry needed no credentials or accepted the node's.
func (r *Records) Succeeded(name, id string, with *Secret) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.add(name, id, with)
	delete(r.pulling, name) // also those of an earlier agent: now it is known
	r.remove("pulling", name)
}

// add records credentials. The caller holds mu.
func (r *Records) add(name, id string, with *Secret) {
	repo := Repository(name)
	next := record{Image: id, Credentials: map[string]credentials{}}
	for k, v := range r.pulled[id].Credentials {
		next.Credentials[k] = v
	}
	c := next.Credentials[repo]
	switch {
	case c.Anybody:
		return
	case with == nil:
		c = credentials{Anybody: true}
	default:
		if slices.Contains(c.Secrets, *with) {
			return
		}
		c.Secrets = slices.DeleteFunc(slices.Clone(c.Secrets), func(s Secret) bool {
			return s.UID == with.UID && s.Namespace == with.Namespace && s.Name == with.Name
		})
		c.Secrets = append(c.Secrets, *with)
		c.Secrets = c.Secrets[max(0, len(c.Secrets)-maxSecrets):]
	}
	next.Credentials[repo] = c
	r.pulled[id] = next
	b, err := json.Marshal(next)
	if err == nil {
		err = r.write("pulled", id, b)
	}
	if err != nil {
		slog.Warn("a record of an image pull cannot be stored", "image", name, "err", err)
	}
}

// MustPull says whether a pod may use a local image only after it pulled it with its own credentials. It calls secrets, which returns the
// pod's Secrets for the image, only if they matter. A Secret that counts as one of the recorded ones is recorded as well.
func (r *Records) MustPull(name string, img runtime.Image, secrets func() []Secret) bool {
	if img.Imported {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	have, known := r.pulled[img.ID]
	if !known {
		return r.pulling[name] > 0 // otherwise it was there before
	}
	c, ok := have.Credentials[Repository(name)]
	if !ok {
		return true
	}
	if c.Anybody {
		return false
	}
	for _, s := range secrets() {
		for _, old := range c.Secrets {
			same := s.UID == old.UID && s.Namespace == old.Namespace && s.Name == old.Name
			if s.Hash == old.Hash || same { // the same content, or the same Secret with another content
				r.add(name, img.ID, &s)
				return false
			}
		}
	}
	return true
}

// Retain forgets the images that are not present, by ID.
func (r *Records) Retain(present map[string]bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id := range r.pulled {
		if !present[id] {
			delete(r.pulled, id)
			r.remove("pulled", id)
		}
	}
}

// Repository returns an image's complete name without tag and digest; a name that is not valid is returned as it is.
func Repository(name string) string {
	named, err := reference.ParseDockerRef(name)
	if err != nil {
		return name
	}
	return reference.TrimNamed(named).String()
}
