package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kontiki/kontiki/test/robustness/faultfs"
)

func TestMain(m *testing.M) {
	faultfs.ServeIfAsked()
	os.Exit(m.Run())
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func holds(t *testing.T, path, want string) {
	t.Helper()
	if got, err := os.ReadFile(path); err != nil || string(got) != want {
		t.Errorf("%s holds %q (%v), want %q", path, got, err, want)
	}
}

func TestWriteFileReplacesWhole(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "secret")
	for _, content := range []string{"first, and longer", "second"} {
		check(t, WriteFile(path, []byte(content), 0o600))
		holds(t, path, content)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
	if err := WriteFile(filepath.Join(dir, "no", "such"), nil, 0o600); err == nil || !strings.Contains(err.Error(), "no/such") {
		t.Errorf("wrote into a directory that is not there: %v", err)
	}
}

// What was written when a call returned without an error exists after a loss of power, whatever the disk kept of unsynced data.
func TestPowerLossKeepsWhatReturned(t *testing.T) {
	for seed := range uint64(8) {
		disk := faultfs.Start(t)
		deep := filepath.Join(disk.Dir, "a", "b", "c")
		file, moved := filepath.Join(deep, "file"), filepath.Join(disk.Dir, "a", "moved")
		check(t, MakeDir(deep, 0o700))
		check(t, WriteFile(file, []byte("first"), 0o600))
		check(t, WriteFile(file, []byte("second"), 0o600))
		check(t, WriteFile(filepath.Join(deep, "other"), []byte("other"), 0o600))
		check(t, Rename(filepath.Join(deep, "other"), moved))
		disk.PowerLoss(seed)
		disk.PowerOn()
		holds(t, file, "second")
		holds(t, moved, "other")
		if _, err := os.Stat(filepath.Join(deep, "other")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("seed %d: the old name of what was moved: %v", seed, err)
		}
	}
}

func TestDocuments(t *testing.T) {
	type document struct {
		Name   string   `json:"name"`
		Others []string `json:"others,omitempty"`
	}
	path := filepath.Join(t.TempDir(), "document.json")
	if _, err := Load[document](path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a document that is not there: %v", err)
	}
	check(t, Save(path, &document{"one", []string{"two"}}))
	got, err := Load[document](path)
	check(t, err)
	if got.Name != "one" || len(got.Others) != 1 || got.Others[0] != "two" {
		t.Errorf("loaded %+v", got)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	check(t, os.WriteFile(path, []byte(`{"name": "o`), 0o600))
	if _, err := Load[document](path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("half a document: %v", err)
	}
	if err := Save(path, func() {}); err == nil {
		t.Error("saved what has no JSON form")
	}
	holds(t, path, `{"name": "o`)
}
