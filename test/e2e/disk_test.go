package e2e_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kontiki/kontiki/cluster"
	"github.com/kontiki/kontiki/cluster/consensus"
)

// docs/operations.md, "Repair a master whose data are damaged".
func TestADamagedMasterIsRepaired(t *testing.T) {
	healthy(t)
	ns := namespace(t)
	kubectl(t, "-n", ns, "create", "configmap", "kept")
	for _, damage := range []func(raft string) error{
		func(raft string) error { return os.Truncate(filepath.Join(raft, "raft.db"), 9000) },
		os.RemoveAll,
	} {
		victim, err := env.Leader()
		if err != nil {
			t.Fatal(err)
		}
		must(t, "dev", "kill", victim)
		if err := damage(filepath.Join(hostDir(victim), "raft")); err != nil {
			t.Fatal(err)
		}
		must(t, "dev", "start", victim)
		healthy(t)
		eventually(t, 30*time.Second, "its vote", func() error {
			s, degraded := clusterStatus(t)
			for _, m := range s.Members {
				if m.Name == victim && m.Role != cluster.StatusNonvoter && !degraded {
					return nil
				}
			}
			return fmt.Errorf("%v", s.Problems)
		})
		log, err := os.ReadFile(filepath.Join(env.Dir, "logs", victim+".log"))
		if err != nil || !strings.Contains(string(log), "this master's raft data are damaged") {
			t.Errorf("the log of %s does not say so (%v)", victim, err)
		}
		kubectl(t, "-n", ns, "get", "configmap", "kept")
	}
	aside, err := filepath.Glob(filepath.Join(env.Dir, "hosts", "master-*", "raft.damaged-*", "raft.db"))
	if err != nil || len(aside) == 0 {
		t.Errorf("what was damaged is not set aside: %v", err)
	}
}

// ontoSmallDisks moves the data of all masters onto disks of their own, and back at the test's end.
func ontoSmallDisks(t *testing.T, bytes int64) {
	t.Helper()
	move := func(from, to string) error {
		if out, err := exec.Command("cp", "-a", from+"/.", to).CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	swap := func(f func(dir, spare string) error) {
		t.Helper()
		for i := range masters {
			if out, err := kontiki("dev", "kill", fmt.Sprintf("master-%d", i+1)); err != nil && !strings.Contains(err.Error(), "down already") {
				t.Fatal(out, err)
			}
		}
		for i := range masters {
			dir := hostDir(fmt.Sprintf("master-%d", i+1))
			if err := f(dir, dir+".spare"); err != nil {
				t.Fatal(err)
			}
			must(t, "dev", "start", fmt.Sprintf("master-%d", i+1))
		}
		healthy(t)
	}
	t.Cleanup(func() {
		swap(func(dir, spare string) error {
			if _, err := os.Stat(spare); errors.Is(err, os.ErrNotExist) {
				return nil
			}
			err := os.RemoveAll(spare)
			if err == nil {
				err = os.Mkdir(spare, 0o700)
			}
			return errors.Join(err, move(dir, spare), syscall.Unmount(dir, syscall.MNT_DETACH), os.Remove(dir), os.Rename(spare, dir))
		})
	})
	swap(func(dir, spare string) error {
		if err := os.Rename(dir, spare); err != nil {
			return err
		}
		return errors.Join(os.Mkdir(dir, 0o700), syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", bytes)), move(spare, dir))
	})
}

// docs/operations.md, "Make room on a master's disk".
func TestDisksRunFullAndGetRoom(t *testing.T) {
	healthy(t)
	ns := namespace(t)
	kubectl(t, "-n", ns, "create", "configmap", "kept")
	ontoSmallDisks(t, 384<<20)
	filler := func(i int) string { return filepath.Join(hostDir(fmt.Sprintf("master-%d", i+1)), "filler") }
	for i := range masters {
		f, err := os.Create(filler(i))
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, 224<<20), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, 20*time.Second, "the status to say so", func() error {
		s, degraded := clusterStatus(t)
		full := 0
		for _, m := range s.Members {
			if strings.Contains(m.Health, consensus.ConditionDiskFull) {
				full++
			}
		}
		if full != masters || !degraded {
			return fmt.Errorf("%d of %d are full: %+v", full, masters, s.Members)
		}
		return nil
	})
	out, err := kontiki("kubectl", "-n", ns, "create", "configmap", "refused")
	if err == nil {
		t.Fatalf("a write on full disks: %s", out)
	}
	contains(t, err.Error(), "the cluster is read-only, nothing was changed", "free some space there", "/raft has")
	kubectl(t, "-n", ns, "get", "configmap", "kept")
	contains(t, kubectl(t, "get", "--raw", "/metrics"), "kontiki_disk_full 1")
	for i := range masters {
		if err := os.Remove(filler(i)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, 20*time.Second, "writes to go on", func() error {
		_, err := kontiki("kubectl", "-n", ns, "create", "configmap", "after")
		return err
	})
	healthy(t)
	if out, err := kontiki("kubectl", "-n", ns, "get", "configmap", "refused"); err == nil {
		t.Errorf("what was refused is there: %s", out)
	}
}
