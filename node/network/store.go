package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/kontiki/kontiki/node/netapi"
)

// record is a pod's allocation: one file per pod, so that a pod's cost does not grow with the number of others.
type record struct {
	UID       string            `json:"uid"`
	Namespace string            `json:"namespace"`
	Name      string            `json:"name"`
	Address   netip.Addr        `json:"address"`
	NetNS     string            `json:"netns"`
	HostPorts []netapi.HostPort `json:"hostPorts,omitempty"`
}

// store allocates addresses and stores them on disk. Its methods are safe for concurrent use.
type store struct {
	dir string

	mu     sync.Mutex
	pods   map[string]record     // by UID
	former map[string]bool       // pods of earlier processes that this one has not been asked for
	taken  map[netip.Addr]string // address to UID
	hidden map[string]bool       // pods whose host ports are being freed
	last   netip.Addr            // allocated last: the next search begins after it, so that addresses are reused late
}

const recordSuffix = ".json"

func openStore(dir string) (*store, error) {
	s := &store{dir: dir, pods: map[string]record{}, former: map[string]bool{}, taken: map[netip.Addr]string{}, hidden: map[string]bool{}}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var newest time.Time
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if !strings.HasSuffix(e.Name(), recordSuffix) {
			os.Remove(path) // a temporary file of a process that ended during a write
			continue
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		var r record
		if err := json.Unmarshal(b, &r); err != nil || r.UID == "" || !r.Address.Is4() || path != s.path(r.UID) {
			// Writes are atomic, so only a damaged disk causes this. The pod gets a new address when it is added again.
			slog.Error("dropping an unreadable address record", "file", path, "err", err)
			if err := os.Remove(path); err != nil {
				return nil, err
			}
			continue
		}
		if other, twice := s.taken[r.Address]; twice {
			return nil, fmt.Errorf("pods %s and %s both have address %s in %s", other, r.UID, r.Address, dir)
		}
		s.pods[r.UID], s.taken[r.Address], s.former[r.UID] = r, r.UID, true
		if i, err := e.Info(); err == nil && i.ModTime().After(newest) {
			newest, s.last = i.ModTime(), r.Address
		}
	}
	return s, nil
}

func (s *store) path(uid string) string {
	return filepath.Join(s.dir, url.PathEscape(uid)+recordSuffix)
}

func (s *store) get(uid string) (record, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.pods[uid]
	return r, ok
}

// claim marks a pod as one of this process.
func (s *store) claim(uid string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.former, uid)
}

// isInherited says whether the pod is from an earlier process and has not been claimed.
func (s *store) isInherited(uid string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.former[uid]
}

// all returns the records by UID.
func (s *store) all() []record {
	s.mu.Lock()
	defer s.mu.Unlock()
	rs := make([]record, 0, len(s.pods))
	for _, r := range s.pods {
		rs = append(rs, r)
	}
	sort.Slice(rs, func(i, j int) bool { return rs[i].UID < rs[j].UID })
	return rs
}

// published returns the records with host ports that are not being freed, by UID.
func (s *store) published() []record {
	var rs []record
	for _, r := range s.all() {
		s.mu.Lock()
		hidden := s.hidden[r.UID]
		s.mu.Unlock()
		if len(r.HostPorts) > 0 && !hidden {
			rs = append(rs, r)
		}
	}
	return rs
}

// hide excludes a pod's host ports from published until it is removed or put again.
func (s *store) hide(uid string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hidden[uid] = true
}

// allocate gives p an address and writes it to disk before it returns. The first address of the range is the node's own (its VXLAN
// device), the last is not used because it looks like a broadcast address.
func (s *store) allocate(cidr netip.Prefix, p netapi.PodNetwork) (record, error) {
	s.mu.Lock()
	first := cidr.Addr().Next()
	at := s.last.Next()
	if !cidr.Contains(at) {
		at = first
	}
	var found netip.Addr
	for begin := at; ; {
		next := at.Next()
		if cidr.Contains(next) && at != cidr.Addr() && s.taken[at] == "" {
			found = at
			break
		}
		if at = next; !cidr.Contains(at) {
			at = first
		}
		if at == begin {
			break
		}
	}
	if !found.IsValid() {
		s.mu.Unlock()
		return record{}, fmt.Errorf("%w: range %s, %d pods", ErrNoAddress, cidr, len(s.pods))
	}
	s.taken[found], s.last = p.UID, found // reserved while the file is written
	s.mu.Unlock()

	r := record{UID: p.UID, Namespace: p.Namespace, Name: p.Name, Address: found, NetNS: p.NetNS, HostPorts: p.HostPorts}
	if err := s.put(r); err != nil {
		s.mu.Lock()
		delete(s.taken, found)
		s.mu.Unlock()
		return record{}, err
	}
	return r, nil
}

func (s *store) put(r record) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := writeFile(s.path(r.UID), b); err != nil {
		return fmt.Errorf("write address record: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pods[r.UID], s.taken[r.Address] = r, r.UID
	delete(s.hidden, r.UID)
	return nil
}

// remove frees the pod's address. The deletion is not synced: a record that is back after a power loss is swept.
func (s *store) remove(uid string) error {
	if err := os.Remove(s.path(uid)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.taken, s.pods[uid].Address)
	delete(s.pods, uid)
	delete(s.former, uid)
	delete(s.hidden, uid)
	return nil
}

// writeFile replaces path by b: after a crash there is the old content or the new one, and after it has returned, the new one.
func writeFile(path string, b []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
