package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kontiki/kontiki/cluster/backup"
	"github.com/kontiki/kontiki/cluster/errclass"
	"github.com/kontiki/kontiki/cluster/identity"
	"github.com/kontiki/kontiki/cluster/mtls"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/test/await"
)

// Where package backup stages a backup.
const restorePrefix, restoreMarks = kv.OwnPrefix + "restore/", kv.OwnPrefix + "restoring/"

func (n *node) backup() []byte {
	n.t.Helper()
	var b bytes.Buffer
	info, err := n.c.Backups().Save(context.Background(), &b)
	if err != nil {
		n.t.Fatal(err)
	}
	if read, err := backup.Read(bytes.NewReader(b.Bytes()), nil); err != nil || read.Revision != info.Revision || read.Objects != info.Objects || read.ClusterID != n.c.identity.ClusterID {
		n.t.Fatalf("saved %+v, read %+v, %v", info, read, err)
	}
	return b.Bytes()
}

// things are the objects under /t/.
func (n *node) things() map[string]string {
	n.t.Helper()
	view, err := n.c.Consistent(context.Background())
	if err != nil {
		n.t.Fatal(err)
	}
	all := map[string]string{}
	view.Range("/t/", kv.PrefixEnd("/t/"), func(v *kv.Version) bool { all[v.Key] = string(v.Value); return true })
	return all
}

func sameThings(t *testing.T, who string, got, want map[string]string) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s has %d things, want %d", who, len(got), len(want))
	}
	for key, value := range want {
		if got[key] != value {
			t.Errorf("%s: %s is %q, want %q", who, key, got[key], value)
		}
	}
}

func TestRestoreOnALivingCluster(t *testing.T) {
	m := startMasters(t, 3)
	for i := range 300 {
		m.nodes[i%3].put(fmt.Sprintf("/t/a/b/%03d", i), strings.Repeat("x", 9000)) // so that it takes several pieces
	}
	want := m.nodes[1].things()
	saved := m.nodes[1].backup() // a follower's, perhaps: any master's shows every acknowledged write
	for i := range 150 {
		m.nodes[2].put(fmt.Sprintf("/t/a/b/%03d", 2*i), "changed")
		m.nodes[0].put(fmt.Sprintf("/t/new/b/%03d", i), "new")
	}
	token, err := m.nodes[0].c.CreateToken(context.Background(), mtls.RoleWorker, 0, "made after the backup")
	if err != nil {
		t.Fatal(err)
	}
	view, err := m.nodes[2].c.Consistent(context.Background()) // also the last write of another master
	if err != nil {
		t.Fatal(err)
	}
	before := view.Revision()
	epoch := m.leader().epoch()
	if epoch.Number != 1 || epoch.Reason != backup.EpochStart || epoch.Lineage == "" {
		t.Errorf("the first epoch: %+v", epoch)
	}
	watcher, err := m.nodes[2].c.store.Watch("/t/new/", before)
	if err != nil {
		t.Fatal(err)
	}
	defer watcher.Close()
	restored, err := m.followers()[0].c.Backups().Restore(context.Background(), bytes.NewReader(saved), false)
	if err != nil {
		t.Fatal(err)
	}
	if restored.Revision <= before || restored.Epoch.Number != 2 || restored.Epoch.Reason != backup.EpochRestore || restored.Epoch.Lineage != epoch.Lineage {
		t.Errorf("restored %+v, before at %d", restored, before)
	}
	for _, n := range m.nodes {
		sameThings(t, n.cfg.Name, n.things(), want)
		if got := n.epoch(); got.Number != 2 || got.Backup == nil || got.Backup.Revision != restored.Backup.Revision {
			t.Errorf("%s is in epoch %+v", n.cfg.Name, got)
		}
		if staged := n.c.store.View().Count(restorePrefix, kv.PrefixEnd(restoreMarks)); staged != 0 {
			t.Errorf("%s still has %d staged pieces", n.cfg.Name, staged)
		}
	}
	events, _, err := watcher.Next(t.Context())
	if err != nil || len(events) != 150 || slices.ContainsFunc(events, func(e *kv.Event) bool { return e.Type != kv.Deleted }) {
		t.Errorf("a watcher saw %d events, %v; want 150 deletions", len(events), err)
	}
	tokens, err := m.nodes[0].c.Tokens(context.Background())
	if err != nil || !slices.ContainsFunc(tokens, func(x Token) bool { return strings.Contains(token, x.ID) }) {
		t.Errorf("the cluster's own state went back: %+v, %v", tokens, err)
	}
	m.nodes[0].put("/t/after", "x")
	restarted := m.nodes[0]
	restarted.kill()
	restarted.start()
	restarted.waitReady()
	want["/t/after"] = "x"
	sameThings(t, "a master that was killed and started again", restarted.things(), want)
}

// TestRestoreThatFailsChangesNothing: whatever is wrong with the backup, or comes in between.
func TestRestoreThatFailsChangesNothing(t *testing.T) {
	m := startMasters(t, 1)
	n := m.nodes[0]
	n.awaitLevel(FeatureLevel)
	n.put("/t/a", "backed up")
	saved := n.backup()
	n.put("/t/a", "later")
	damaged := bytes.Clone(saved)
	damaged[len(damaged)-20] ^= 1
	head := bytes.Clone(saved)
	head[30] ^= 1 // behind the magic line and the length
	for name, x := range map[string]struct {
		data []byte
		want error
	}{
		"damaged": {damaged, backup.ErrBad}, "damaged head": {head, backup.ErrBad}, "cut": {saved[:len(saved)/2], backup.ErrBad}, "empty": {nil, backup.ErrBad},
		"text": {[]byte("apiVersion: v1\nkind: List\n"), backup.ErrBad}, "more": {append(bytes.Clone(saved), 0), backup.ErrBad},
	} {
		if _, err := n.c.Backups().Restore(t.Context(), bytes.NewReader(x.data), true); !errors.Is(err, x.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	gone, cancel := context.WithCancel(t.Context())
	broken := io.MultiReader(bytes.NewReader(saved[:100]), readerFunc(func([]byte) (int, error) { cancel(); return 0, errors.New("the client went away") }))
	if _, err := n.c.Backups().Restore(gone, broken, false); err == nil || !strings.Contains(err.Error(), "went away") {
		t.Errorf("a client that goes away: %v", err)
	}
	other := startMasters(t, 1).nodes[0]
	other.awaitLevel(FeatureLevel)
	if _, err := other.c.Backups().Restore(t.Context(), bytes.NewReader(saved), false); !errors.Is(err, backup.ErrForeign) || !strings.Contains(err.Error(), "identity.json") {
		t.Errorf("another cluster's: %v", err)
	}
	if got := n.get("/t/a"); got != "later" {
		t.Errorf("the state is %q", got)
	}
	if left := n.c.store.View().Count(restorePrefix, kv.PrefixEnd(restoreMarks)); left != 0 {
		t.Errorf("%d staged pieces are left", left)
	}
	if files, _ := filepath.Glob(filepath.Join(n.cfg.DataDir, "restore-*")); len(files) != 0 {
		t.Errorf("left behind: %v", files)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// TestLeaderDiesDuringARestore: the restore is whole on every master, or there is none of it.
func TestLeaderDiesDuringARestore(t *testing.T) {
	m := startMasters(t, 3)
	for i := range 100 {
		m.nodes[0].put(fmt.Sprintf("/t/a/b/%03d", i), strings.Repeat("y", 60_000))
	}
	old := m.nodes[0].things()
	saved := m.nodes[0].backup()
	for i := range 100 {
		m.nodes[0].put(fmt.Sprintf("/t/a/b/%03d", i), "new")
	}
	fresh := m.nodes[0].things()
	leader := m.leader()
	follower := m.followers()[0]
	var wg sync.WaitGroup
	var restoreErr error
	wg.Go(func() {
		_, restoreErr = follower.c.Backups().Restore(context.Background(), bytes.NewReader(saved), false)
	})
	await.That(t, "some of the backup to be staged", func() error {
		if follower.c.store.View().Count(restorePrefix, kv.PrefixEnd(restorePrefix)) < 3 {
			return errors.New("not yet")
		}
		return nil
	})
	leader.kill()
	wg.Wait()
	if restoreErr != nil {
		t.Errorf("the restore did not outlive the leader: %v", restoreErr)
	}
	leader.start()
	leader.waitReady()
	want := old
	if restoreErr != nil {
		want = fresh
	}
	for _, n := range m.nodes {
		sameThings(t, n.cfg.Name, n.things(), want)
	}
}

// TestRestoreIntoANewCluster brings back a cluster of which nothing is left but a backup and a master's identity.
func TestRestoreIntoANewCluster(t *testing.T) {
	lost := startMasters(t, 1)
	for i := range 50 {
		lost.nodes[0].put(fmt.Sprintf("/t/a/b/%d", i), "x")
	}
	want, saved := lost.nodes[0].things(), lost.nodes[0].backup()
	for i := range 500 { // what clients saw and the backup does not know
		lost.nodes[0].put(fmt.Sprintf("/t/later/b/%d", i), "x")
	}
	seen := lost.nodes[0].c.store.View().Revision()
	id, err := os.ReadFile(filepath.Join(lost.nodes[0].cfg.DataDir, identity.File))
	if err != nil {
		t.Fatal(err)
	}
	m := startMasters(t, 1, func(cfg *Config) {
		if err := os.WriteFile(filepath.Join(cfg.DataDir, identity.File), id, 0o600); err != nil {
			t.Fatal(err)
		}
	})
	n := m.nodes[0]
	n.awaitLevel(FeatureLevel)
	restored, err := n.c.Backups().Restore(t.Context(), bytes.NewReader(saved), false)
	if err != nil {
		t.Fatal(err)
	}
	sameThings(t, "the new cluster", n.things(), want)
	if restored.Revision <= seen {
		t.Errorf("revision %d was handed out before: clients saw %d", restored.Revision, seen)
	}
	for _, after := range []uint64{1, restored.Backup.Revision, seen} {
		if _, err := n.c.store.Watch("/t/", after); !errors.Is(err, kv.ErrCompacted) {
			t.Errorf("a client that resumes from %d: %v", after, err)
		}
	}
}

func TestRecoverFromASurvivor(t *testing.T) {
	m := startMasters(t, 3)
	for i := range 20 {
		m.nodes[i%3].put(fmt.Sprintf("/t/a/b/%d", i), "x")
	}
	want := m.nodes[0].things()
	seen := m.leader().c.store.View().Revision()
	for _, n := range m.nodes {
		n.awaitLevel(FeatureLevel)
		n.get("/t/a/b/1")
	}
	for _, n := range m.nodes {
		n.kill()
	}
	survivor, dead := m.nodes[1], []*node{m.nodes[0], m.nodes[2]}
	plan, err := PlanRecovery(survivor.cfg.DataDir, testLog(t))
	if err != nil || plan.Name != survivor.cfg.Name || len(plan.Left) != 2 || plan.LastIndex == 0 {
		t.Fatalf("%+v, %v", plan, err)
	}
	if _, err := Recover(survivor.cfg.DataDir, testLog(t)); err != nil {
		t.Fatal(err)
	}
	survivor.start()
	survivor.waitReady()
	await.That(t, "the epoch of the recovery", func() error {
		if epoch := survivor.epoch(); epoch.Number != 2 || epoch.Reason != backup.EpochRecovery {
			return fmt.Errorf("epoch %+v", epoch)
		}
		return nil
	})
	sameThings(t, "the survivor", survivor.things(), want)
	if at := survivor.c.store.View().Revision(); at <= seen {
		t.Errorf("revision %d may have been handed out before", at)
	}
	if _, err := survivor.c.store.Watch("/t/", seen); !errors.Is(err, kv.ErrCompacted) {
		t.Errorf("a client that resumes from %d: %v", seen, err)
	}
	survivor.put("/t/after", "recovery")

	// Those that were left out have a quorum among themselves. They end once they see the new cluster, and can never make
	// it one of theirs again.
	for _, n := range dead {
		n.start()
	}
	for _, n := range dead {
		select {
		case err := <-n.stopped:
			if !errors.Is(err, errclass.ErrRemoved) || !strings.Contains(err.Error(), "recovered without it") {
				t.Errorf("%s ended with %v", n.cfg.Name, err)
			}
		case <-time.After(patience):
			t.Fatalf("%s runs on in a past that is over", n.cfg.Name)
		}
		n.c = nil
	}
	if got := survivor.get("/t/after"); got != "recovery" {
		t.Fatalf("the survivor reads %q", got)
	}

	// With empty disks they join again.
	for _, n := range dead {
		if err := os.RemoveAll(n.cfg.DataDir); err != nil {
			t.Fatal(err)
		}
		if n.cfg.Token, err = survivor.c.CreateToken(context.Background(), mtls.RoleMaster, 0, ""); err != nil {
			t.Fatal(err)
		}
		n.cfg.Bootstrap, n.cfg.Join = false, []string{survivor.c.Address()}
		n.start()
		n.waitReady()
		if got := n.get("/t/after"); got != "recovery" {
			t.Errorf("%s reads %q", n.cfg.Name, got)
		}
	}
	survivor.kill()
	dead[0].put("/t/more", "x") // the others are a quorum
	if _, err := Recover(t.TempDir(), testLog(t)); err == nil || !strings.Contains(err.Error(), "no master's data") {
		t.Errorf("recovered from nothing: %v", err)
	}
	if _, err := PlanRecovery(dead[0].cfg.DataDir, testLog(t)); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("recovered a master that runs: %v", err)
	}
	survivor.start()
}

// TestNoDutyActsAcrossARestore: what decided on the state before it does nothing to the state after it.
func TestNoDutyActsAcrossARestore(t *testing.T) {
	m := startMasters(t, 3)
	n := m.nodes[0]
	n.put("/t/a", "backed up")
	saved := n.backup()
	type turn struct {
		begun, ended uint64 // revisions
	}
	turns := make(chan turn, 100)
	for _, n := range m.nodes {
		n.c.AddDuty("slow", func(ctx context.Context) error {
			begun := n.c.store.View().Revision()
			<-ctx.Done()
			time.Sleep(50 * time.Millisecond) // it takes its time to notice, and acts once more
			_, _ = n.c.Propose(context.WithoutCancel(ctx), put("/t/a", "decided before"))
			turns <- turn{begun, n.c.store.View().Revision()}
			return nil
		})
	}
	restored, err := m.nodes[1].c.Backups().Restore(t.Context(), bytes.NewReader(saved), false)
	if err != nil {
		t.Fatal(err)
	}
	last := <-turns
	if last.ended >= restored.Revision {
		t.Errorf("a duty ended at revision %d, the restore was at %d", last.ended, restored.Revision)
	}
	for _, n := range m.nodes {
		if got := n.get("/t/a"); got != "backed up" {
			t.Errorf("%s reads %q", n.cfg.Name, got)
		}
	}
	// They go on, also on another leader, and after a restore that never comes.
	leader := m.leader()
	if _, err := leader.c.TransferLeadership(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	if next := <-turns; next.begun < restored.Revision {
		t.Errorf("the duty that went on had begun at revision %d", next.begun)
	}
	if _, err := n.c.consensus.StopDuties(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	<-turns
	if _, err := n.c.Backups().Restore(t.Context(), bytes.NewReader(saved), false); err == nil || !strings.Contains(err.Error(), "another restore is under way") {
		t.Errorf("two restores at once: %v", err)
	}
	n.c.consensus.ResumeDuties("one")
	if _, err := n.c.Backups().Restore(t.Context(), bytes.NewReader(saved), false); err != nil {
		t.Errorf("after one that was given up: %v", err)
	}
	<-turns
}

func TestScheduledBackups(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "backups")
	m := startMasters(t, 1, func(cfg *Config) { cfg.Backups = backup.Schedule{Dir: dir, Interval: 20 * time.Millisecond, Keep: 2} })
	m.nodes[0].put("/t/a", "x")
	begin := time.Now().UTC().Truncate(time.Second)
	await.That(t, "backups to be replaced", func() error {
		files := fileNames(t, dir)
		if len(files) != 2 || files[0] <= "kontiki-"+begin.Format("20060102T150405Z")+".backup" {
			return fmt.Errorf("%v", files)
		}
		return nil
	})
	m.nodes[0].stop()
	for _, name := range fileNames(t, dir) {
		file, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info, err := backup.Read(file, nil); err != nil || info.Master != "master-1" {
			t.Errorf("%s: %+v, %v", name, info, err)
		}
		file.Close()
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("the directory holds %v, %v", entries, err)
	}
}

// TestBackupsGoOnAfterTheClockIsSetBack: backups that seem to be from the future neither hold up the next one nor outlive it.
func TestBackupsGoOnAfterTheClockIsSetBack(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"kontiki-20990101T000000Z.backup", "kontiki-20990102T000000Z.backup", "kontiki-20200101T000000Z.backup"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m := startMasters(t, 1, func(cfg *Config) { cfg.Backups = backup.Schedule{Dir: dir, Interval: 24 * time.Hour, Keep: 2} })
	defer m.nodes[0].stop()
	await.That(t, "a backup though newer ones seem to be there", func() error {
		files := fileNames(t, dir)
		if len(files) != 2 || files[0] != "kontiki-20200101T000000Z.backup" {
			return fmt.Errorf("%v", files)
		}
		return nil
	})
}

// fileNames are the names of the backups in a directory, in order; those that are being written are not counted.
func fileNames(t *testing.T, dir string) (names []string) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "kontiki-*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		names = append(names, filepath.Base(path))
	}
	return names
}

// epoch is the cluster's epoch, as this master's state has it.
func (n *node) epoch() backup.Epoch {
	epoch, _, _ := backup.EpochOf(n.c.store.View())
	return epoch
}
