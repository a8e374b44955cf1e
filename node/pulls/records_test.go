package pulls

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/kontiki/kontiki/node/runtime"
)

const name = "docker.io/test/private:1"

var img = runtime.Image{ID: "sha256:1"}

func secret(n, hash string) Secret {
	return Secret{UID: "uid-of-" + n, Namespace: "ns", Name: n, Hash: hash}
}

func with(list ...Secret) func() []Secret { return func() []Secret { return list } }

// pulled records a pull that succeeded.
func pulled(t *testing.T, r *Records, name, id string, s *Secret) {
	t.Helper()
	if err := r.Begin(name); err != nil {
		t.Fatal(err)
	}
	r.Succeeded(name, id, s)
}

func TestAnImageNeedsTheCredentialsOfItsPull(t *testing.T) {
	dir := t.TempDir()
	r := Open(dir)
	a := secret("a", "right")
	pulled(t, r, name, img.ID, &a)
	for _, again := range []bool{false, true} {
		if again {
			r = Open(dir)
		}
		for _, c := range []struct {
			what    string
			name    string
			img     runtime.Image
			secrets []Secret
			must    bool
		}{
			{"no Secret", name, img, nil, true},
			{"another Secret with other credentials", name, img, []Secret{secret("b", "wrong")}, true},
			{"the Secret", name, img, []Secret{secret("b", "wrong"), a}, false},
			{"another Secret with the same credentials", name, img, []Secret{secret("same", "right")}, false},
			{"another tag of the repository", "docker.io/test/private:2", img, []Secret{a}, false},
			{"another repository", "docker.io/test/other:1", img, []Secret{a}, true},
			{"an image without a record", name, runtime.Image{ID: "sha256:2"}, nil, false},
			{"an imported image", name, runtime.Image{ID: img.ID, Imported: true}, nil, false},
		} {
			if got := r.MustPull(c.name, c.img, with(c.secrets...)); got != c.must {
				t.Errorf("%s, opened again %v: must pull is %v", c.what, again, got)
			}
		}
	}
}

// The Secret with which an image was pulled still counts when its content has changed, and the new content is recorded.
func TestASecretMayChange(t *testing.T) {
	dir := t.TempDir()
	r := Open(dir)
	old := secret("a", "old")
	pulled(t, r, name, img.ID, &old)
	if !r.MustPull(name, img, with(secret("b", "new"))) {
		t.Fatal("unknown credentials are accepted")
	}
	if r.MustPull(name, img, with(secret("a", "new"))) {
		t.Fatal("the Secret's new content does not count")
	}
	if r = Open(dir); r.MustPull(name, img, with(secret("b", "new"))) || !r.MustPull(name, img, with(secret("c", "old"))) {
		t.Error("the new content did not replace the old one")
	}
}

func TestWhatNeedsNoCredentialsIsForAll(t *testing.T) {
	r := Open("")
	a := secret("a", "right")
	pulled(t, r, name, img.ID, &a)
	pulled(t, r, name, img.ID, nil)
	asked := false
	if r.MustPull(name, img, func() []Secret { asked = true; return nil }) || asked {
		t.Errorf("a pod without a Secret must pull, or was asked for its Secrets: %v", asked)
	}
	pulled(t, r, name, img.ID, &a)
	if r.MustPull(name, img, with()) {
		t.Error("a later pull with credentials took the image away from the others")
	}
}

// While a name is being pulled, and after a pull of which nobody saw the end, an image without a record is not used.
func TestAPullWithoutAnEndIsNotTrusted(t *testing.T) {
	dir := t.TempDir()
	r := Open(dir)
	for range 2 {
		if err := r.Begin(name); err != nil {
			t.Fatal(err)
		}
	}
	r.Failed(name)
	if !r.MustPull(name, img, with()) {
		t.Error("one of two pulls has ended")
	}
	r.Failed(name)
	if r.MustPull(name, img, with()) {
		t.Error("both pulls have failed: the image was there before")
	}
	if err := r.Begin(name); err != nil {
		t.Fatal(err)
	}
	if r = Open(dir); !r.MustPull(name, img, with()) {
		t.Fatal("the pull of an earlier agent is forgotten")
	}
	pulled(t, r, name, img.ID, nil)
	if r = Open(dir); r.MustPull(name, img, with()) {
		t.Error("the pull is known to have succeeded")
	}
}

func TestRecordsAreBounded(t *testing.T) {
	dir := t.TempDir()
	r := Open(dir)
	for i := range maxSecrets + 1 {
		s := secret(fmt.Sprint(i), fmt.Sprint("hash", i))
		pulled(t, r, name, img.ID, &s)
	}
	if !r.MustPull(name, img, with(secret("other", "hash0"))) || r.MustPull(name, img, with(secret("other", "hash1"))) {
		t.Error("not only the oldest Secret is forgotten")
	}
	pulled(t, r, name, "sha256:2", nil)
	r.Retain(map[string]bool{"sha256:2": true})
	files, err := os.ReadDir(filepath.Join(dir, "pulled"))
	if err != nil || len(files) != 1 {
		t.Errorf("%d records of one image: %v", len(files), err)
	}
	if left, err := os.ReadDir(filepath.Join(dir, "pulling")); err != nil || len(left) != 0 {
		t.Errorf("%d pulls are recorded, and none is running: %v", len(left), err)
	}
}

// A record that was damaged concerns its own image alone.
func TestADamagedRecordIsLeftOut(t *testing.T) {
	dir := t.TempDir()
	r := Open(dir)
	a := secret("a", "right")
	pulled(t, r, name, img.ID, &a)
	if err := os.WriteFile(filepath.Join(dir, "pulled", "other"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r = Open(dir); !r.MustPull(name, img, with()) || r.MustPull(name, img, with(a)) {
		t.Error("the other record was lost")
	}
}

func TestRepository(t *testing.T) {
	for in, want := range map[string]string{
		"busybox": "docker.io/library/busybox", "registry.example:5000/a/b:1": "registry.example:5000/a/b",
		"quay.io/a/b@sha256:" + "0000000000000000000000000000000000000000000000000000000000000000": "quay.io/a/b", "Not Valid": "Not Valid",
	} {
		if got := Repository(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
