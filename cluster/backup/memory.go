package backup

import (
	"bufio"
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/kontiki/kontiki/cluster/errclass"
)

const (
	// objectOverhead is the maximum memory in bytes of an object besides its own bytes (package fsm).
	objectOverhead = 310
	// restoreSlack is the memory in bytes that a master needs in addition to the state during a restore.
	restoreSlack = 64 << 20
)

// restoreNeeds returns roughly how many bytes of memory every master needs to restore a backup, in addition to what it already
// uses: for the staged pieces, which the restore's command deletes, and for the objects that are read from them.
func restoreNeeds(size int64, objects uint64) uint64 {
	return 2*uint64(size) + objects*objectOverhead + restoreSlack
}

// checkRestoreFits asks the masters, and refuses a backup for which one of them has too little memory or disk space: a command is
// committed on all, and one that crashes a master when it is applied would crash it again at each start. Masters that do not
// respond are ignored.
func (b *Backups) checkRestoreFits(ctx context.Context, size int64, objects uint64) error {
	needs := restoreNeeds(size, objects)
	check := func(name string, memory, free uint64) error {
		if memory > 0 && memory < needs {
			return fmt.Errorf("%w: restoring this backup takes about %d MiB of memory on every master, and %s has %d MiB available; give it more, or remove that master first",
				errclass.ErrRefused, needs>>20, name, memory>>20)
		}
		// Its pieces are in the log, and the state is in the next snapshot.
		if disk := 2*uint64(size) + uint64(b.o.DiskLow); free > 0 && free < disk {
			return fmt.Errorf("%w: restoring this backup takes about %d MiB of disk space on every master, and %s has %d MiB free; free some space there",
				errclass.ErrRefused, disk>>20, name, free>>20)
		}
		return nil
	}
	if err := check(b.o.Name, AvailableMemory("/"), uint64(max(b.state.DiskHealth().Free, 0))); err != nil {
		return err
	}
	for _, m := range b.o.OtherMasters(ctx) {
		if err := check(m.Name, m.MemoryAvailableBytes, m.DiskFreeBytes); err != nil {
			return err
		}
	}
	return nil
}

// AvailableMemory returns how many bytes this process can still allocate: the machine's available memory (proc_meminfo(5),
// MemAvailable) or what remains to its cgroup (memory.max and memory.current of cgroup v2, memory.limit_in_bytes and
// memory.usage_in_bytes of v1), whichever is less. 0 means unknown. Files are read below root, which is "/" except in tests.
func AvailableMemory(root string) uint64 {
	available := uint64(math.MaxUint64)
	if file, err := os.Open(filepath.Join(root, "proc/meminfo")); err == nil {
		for lines := bufio.NewScanner(file); lines.Scan(); {
			if rest, ok := strings.CutPrefix(lines.Text(), "MemAvailable:"); ok {
				if kib, err := strconv.ParseUint(strings.TrimSpace(strings.TrimSuffix(rest, "kB")), 10, 64); err == nil {
					available = kib << 10
				}
			}
		}
		file.Close()
	}
	number := func(path ...string) (uint64, bool) {
		data, err := os.ReadFile(filepath.Join(append([]string{root, "sys/fs/cgroup"}, path...)...))
		if err != nil {
			return 0, false
		}
		n, err := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
		return n, err == nil // "max" means no limit
	}
	groups, _ := os.ReadFile(filepath.Join(root, "proc/self/cgroup"))
	for line := range strings.Lines(string(groups)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		base, limitFile, usageFile := "", "memory.max", "memory.current"
		if parts[1] == "memory" {
			base, limitFile, usageFile = "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
		} else if parts[1] != "" {
			continue
		}
		// A parent's limit applies too.
		for group := parts[2]; ; group = filepath.Dir(group) {
			limit, limited := number(base, group, limitFile)
			usage, known := number(base, group, usageFile)
			if limited && known {
				available = min(available, max(limit, usage)-usage)
			}
			if group == "/" || group == "." {
				break
			}
		}
	}
	if available == math.MaxUint64 {
		return 0
	}
	return max(available, 1)
}
