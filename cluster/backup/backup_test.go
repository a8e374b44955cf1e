package backup

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kontiki/kontiki/cluster/errclass"
	"github.com/kontiki/kontiki/cluster/storage"
	"github.com/kontiki/kontiki/fsm"
	"github.com/kontiki/kontiki/internal/kv"
	clusterv1 "github.com/kontiki/kontiki/proto/kontiki/cluster/v1"
)

// state is a State of one store, which applies commands at once.
type state struct {
	*fsm.Store
	ctx context.Context
}

func (s state) Consistent(context.Context) (kv.View, error) { return s.View(), nil }
func (s state) Life() context.Context                       { return s.ctx }
func (s state) DiskHealth() storage.Health                  { return storage.Health{Dir: "here", Free: 1 << 30} }
func (s state) ResumeDuties(string)                         {}
func (s state) StopDuties(context.Context, string) ([]kv.Op, error) {
	return nil, nil
}

func (s state) AwaitState(_ context.Context, _ string, holds func(kv.View) bool) error {
	if !holds(s.View()) {
		return errors.New("it does not hold")
	}
	return nil
}

func (s state) Propose(_ context.Context, cmd *kv.Command) (kv.Result, error) {
	data, err := fsm.EncodeCommand(cmd)
	if err != nil {
		return kv.Result{}, err
	}
	return s.Apply(s.AppliedIndex()+1, data)
}

func backupsOf(t *testing.T, others ...*clusterv1.NodeStatusResponse) *Backups {
	return New(Options{
		State: state{fsm.New(fsm.Options{}), t.Context()}, Name: "master-1", ClusterID: "here", Dir: t.TempDir(), CleanUp: time.Minute,
		SecretKeys: func() map[string][]byte { return nil }, IdentityFile: "identity.json",
		RequireLevel: func(context.Context, int, string) error { return nil },
		OtherMasters: func(context.Context) []*clusterv1.NodeStatusResponse { return others },
		Recovered:    func() string { return "" }, EpochBegun: func() error { return nil },
		Log: slog.New(slog.DiscardHandler),
	})
}

// TestABackupComesBack: save, change, restore.
func TestABackupComesBack(t *testing.T) {
	b := backupsOf(t)
	put := func(value string) {
		t.Helper()
		if _, err := b.state.Propose(t.Context(), &kv.Command{ID: kv.CommandID{value[0]}, Ops: []kv.Op{{Key: "/t/a", Value: []byte(value)}}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.BeginEpoch(t.Context()); err != nil {
		t.Fatal(err)
	}
	put("before")
	var saved bytes.Buffer
	info, err := b.Save(t.Context(), &saved)
	if err != nil {
		t.Fatal(err)
	}
	put("later")
	restored, err := b.Restore(t.Context(), &saved, false)
	if err != nil {
		t.Fatal(err)
	}
	if v, ok := b.state.View().Get("/t/a"); !ok || string(v.Value) != "before" {
		t.Errorf("the state has %v", v)
	}
	if restored.Backup.Revision != info.Revision || restored.Epoch.Number != 2 || restored.Epoch.Reason != EpochRestore || restored.Epoch.Lineage != info.Lineage {
		t.Errorf("saved %+v, restored %+v", info, restored)
	}
	if left := b.state.View().Count(restorePrefix, kv.PrefixEnd(restoreMarks)); left != 0 {
		t.Errorf("%d staged pieces are left", left)
	}
}

// TestAbandonedRestoresAreSwept: what is left of a restore whose master died is deleted, a restore in progress is not.
func TestAbandonedRestoresAreSwept(t *testing.T) {
	b := backupsOf(t)
	if err := b.stage(t.Context(), "dead", bytes.NewReader(make([]byte, 3<<20))); err != nil {
		t.Fatal(err)
	}
	if err := b.sweepBefore(t.Context(), time.Now().Add(-time.Minute)); err != nil || b.state.View().Count(restorePrefix, kv.PrefixEnd(restorePrefix)) != 3 {
		t.Errorf("a restore under way was swept: %v", err)
	}
	if err := b.sweepBefore(t.Context(), time.Now().Add(time.Minute)); err != nil || b.state.View().Count(restorePrefix, kv.PrefixEnd(restoreMarks)) != 0 {
		t.Errorf("an abandoned restore stays: %v", err)
	}
}

// TestABackupThatDoesNotFitIsRefusedBeforeItIsCommitted: the error names a master that has no space for it, and nothing is staged.
func TestABackupThatDoesNotFitIsRefusedBeforeItIsCommitted(t *testing.T) {
	b := backupsOf(t, &clusterv1.NodeStatusResponse{Name: "small", MemoryAvailableBytes: 100 << 20, DiskFreeBytes: 1 << 40},
		&clusterv1.NodeStatusResponse{Name: "silent"})
	for _, x := range []struct {
		size int64
		want string
	}{{1 << 50, "memory"}, {60 << 20, "small has 100 MiB"}, {1 << 20, ""}} {
		err := b.checkRestoreFits(t.Context(), x.size, 1)
		if x.want == "" && err != nil || x.want != "" && (!errors.Is(err, errclass.ErrRefused) || !strings.Contains(err.Error(), x.want)) {
			t.Errorf("%d bytes: %v, want %q", x.size, err, x.want)
		}
	}
	// A file that is not a backup takes no memory for the number of objects in its header.
	before := b.state.View().Revision()
	if _, err := b.Restore(t.Context(), bytes.NewReader(make([]byte, 1<<20)), false); !errors.Is(err, ErrBad) {
		t.Errorf("no backup: %v", err)
	}
	if after := b.state.View().Revision(); after != before {
		t.Errorf("the revision went from %d to %d: something was written", before, after)
	}
}

// TestFilesFromTheFutureAreTheOldest: a backup that was made before the clock was set back neither delays the next one nor is kept
// longer.
func TestFilesFromTheFutureAreTheOldest(t *testing.T) {
	dir := t.TempDir()
	names := []string{"kontiki-20990101T000000Z.backup", "kontiki-20990102T000000Z.backup", "kontiki-20200101T000000Z.backup"}
	for _, name := range append(names, "kontiki-today.backup", ".backup-1.tmp") {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Now()
	if got := files(dir, now); !slices.Equal(got, names) {
		t.Errorf("the files are %v", got)
	}
	if at, ok := newest(dir, now); !ok || at.Year() != 2020 {
		t.Errorf("the newest backup is of %v, %v", at, ok)
	}
}
