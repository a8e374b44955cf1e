package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/kontiki/kontiki/cluster/backup"
	"github.com/kontiki/kontiki/test/await"
)

// bucket is a remote place in memory, whose first attempts fail.
type bucket struct {
	mu      sync.Mutex
	objects map[string][]byte
	fail    int
}

func (b *bucket) Put(_ context.Context, name string, from io.Reader, size int64) error {
	data, err := io.ReadAll(from)
	if err != nil || int64(len(data)) != size {
		return fmt.Errorf("%d bytes of %d: %w", len(data), size, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fail > 0 {
		b.fail--
		return errors.New("the bucket is not there")
	}
	b.objects[name] = data
	return nil
}

func (b *bucket) List(context.Context) ([]string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Sorted(maps.Keys(b.objects)), nil
}

func (b *bucket) Remove(_ context.Context, name string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.objects, name)
	return nil
}

func (b *bucket) String() string { return "s3://test" }

// TestScheduledBackupsAreCopied: by the leader alone, also after attempts that failed; as many are kept, and what is not a backup stays.
func TestScheduledBackupsAreCopied(t *testing.T) {
	dir := t.TempDir()
	remote := &bucket{objects: map[string][]byte{"notes.txt": nil}, fail: 2}
	var others []*bucket
	m := startMasters(t, 3, func(cfg *Config) {
		cfg.Backups = backup.Schedule{Dir: filepath.Join(dir, cfg.Name), Interval: 20 * time.Millisecond, Keep: 2, Remote: remote}
		if cfg.Name != "master-1" { // which leads
			other := &bucket{objects: map[string][]byte{}}
			others = append(others, other)
			cfg.Backups.Remote = other
		}
	})
	m.nodes[0].put("/t/a", "x")
	term := m.nodes[0].c.consensus.Term()
	first := ""
	await.That(t, "copies to be replaced", func() error {
		names, _ := remote.List(t.Context())
		if len(names) != 3 || names[2] != "notes.txt" {
			return fmt.Errorf("%v", names)
		}
		if first == "" {
			first = names[0]
		}
		if names[0] == first {
			return fmt.Errorf("%v are the first ones", names)
		}
		return nil
	})
	for _, other := range others {
		if names, _ := other.List(t.Context()); len(names) > 0 && m.nodes[0].c.consensus.Term() == term {
			t.Errorf("a master that does not lead has copied %v", names)
		}
	}
	m.nodes[0].stop()
	for name, data := range remote.objects {
		if name == "notes.txt" {
			continue
		}
		if info, err := backup.Read(bytes.NewReader(data), nil); err != nil || info.Master != "master-1" {
			t.Errorf("%s: %+v, %v", name, info, err)
		}
	}
}
