package identity

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestASealedIdentityIsBound(t *testing.T) {
	before, err := New()
	if err != nil {
		t.Fatal(err)
	}
	next, err := before.WithNextCA()
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := next.SealFor(before)
	if err != nil {
		t.Fatal(err)
	}
	opened, err := before.Open(sealed)
	if err != nil || opened.NextCA.Pin() != next.NextCA.Pin() {
		t.Fatalf("opened %v, %v", opened, err)
	}
	if again, err := opened.Open(sealed); again != nil || err != nil {
		t.Errorf("the same generation counts twice: %v, %v", again, err)
	}
	other, err := New()
	if err != nil {
		t.Fatal(err)
	}
	other.SecretKeys, other.CurrentSecretKey = before.SecretKeys, before.CurrentSecretKey
	if _, err := other.Open(sealed); err == nil {
		t.Error("another cluster's identity was opened")
	}
	raised := bytes.Replace(sealed, []byte(`"generation":1`), []byte(`"generation":7`), 1)
	if bytes.Equal(raised, sealed) {
		t.Fatal("the test does not raise the generation")
	}
	if _, err := before.Open(raised); err == nil {
		t.Error("an identity was opened as a later generation")
	}
	stranger, err := New()
	if err != nil {
		t.Fatal(err)
	}
	stranger.SecretKeys, stranger.CurrentSecretKey = map[string][]byte{"another": make([]byte, 32)}, "another"
	if _, err := stranger.Open(sealed); err == nil || !strings.Contains(err.Error(), "does not have") {
		t.Errorf("opened without the key: %v", err)
	}
}

// TestAnIdentityIsSavedPrivately: a saved identity can be loaded again, and only its owner can read the file.
func TestAnIdentityIsSavedPrivately(t *testing.T) {
	dir := t.TempDir()
	id, err := New()
	if err != nil {
		t.Fatal(err)
	}
	if err := id.Save(dir); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(dir, File))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file is %v, %v", info, err)
	}
	loaded, err := Load(dir)
	if err != nil || loaded.ClusterID != id.ClusterID || loaded.CA.Pin() != id.CA.Pin() {
		t.Errorf("loaded %v, %v", loaded, err)
	}
	if _, err := Load(t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an empty directory: %v", err)
	}
	if text := fmt.Sprintf("%v %+v", id, id); strings.Contains(text, "KEY") || len(text) > 100 {
		t.Errorf("an identity is printed as %q", text)
	}
}
