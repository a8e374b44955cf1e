package seal

import (
	"bytes"
	"errors"
	"testing"
)

func key(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }

func TestSealedValuesOpenOnlyUnderTheirOwnName(t *testing.T) {
	s, err := New("k2", map[string][]byte{"k1": key(1), "k2": key(2)})
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := s.Seal("/core/secrets/default/a", []byte("password"))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(sealed, []byte("password")) {
		t.Fatal("the sealed value holds the plain one")
	}
	plain, err := s.Open("/core/secrets/default/a", sealed)
	if err != nil || string(plain) != "password" {
		t.Fatalf("open: %q, %v", plain, err)
	}
	if _, err := s.Open("/core/secrets/default/b", sealed); !errors.Is(err, ErrSealed) {
		t.Fatalf("opened under another name: %v", err)
	}
	for i := range sealed {
		damaged := bytes.Clone(sealed)
		damaged[i] ^= 1
		if _, err := s.Open("/core/secrets/default/a", damaged); !errors.Is(err, ErrSealed) {
			t.Fatalf("opened with byte %d changed: %v", i, err)
		}
	}
}

func TestOldKeysStillOpen(t *testing.T) {
	old, err := New("k1", map[string][]byte{"k1": key(1)})
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := old.Seal("/a", []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	rotated, err := New("k2", map[string][]byte{"k1": key(1), "k2": key(2)})
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := rotated.Open("/a", sealed); err != nil || string(plain) != "x" {
		t.Fatalf("open: %q, %v", plain, err)
	}
	// A sealer in use takes new keys.
	if err := old.Use("k2", map[string][]byte{"k1": key(1), "k2": key(2)}, nil); err != nil {
		t.Fatal(err)
	}
	resealed, err := old.Seal("/a", []byte("y"))
	if err != nil || !bytes.Contains(resealed, []byte(":k2:")) {
		t.Fatalf("sealed with another key than the new one: %q, %v", resealed, err)
	}
	if plain, err := old.Open("/a", sealed); err != nil || string(plain) != "x" {
		t.Fatalf("open: %q, %v", plain, err)
	}
	if err := old.Use("k3", map[string][]byte{"k1": key(1)}, nil); err == nil {
		t.Fatal("took a ring without the key to seal with")
	}
	if _, err := old.Open("/a", resealed); err != nil {
		t.Fatalf("refused keys were taken: %v", err)
	}
	fresh, err := New("k2", map[string][]byte{"k2": key(2)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fresh.Open("/a", sealed); !errors.Is(err, ErrSealed) {
		t.Fatalf("opened without the key: %v", err)
	}
}

func TestNewRefusesBadKeys(t *testing.T) {
	for name, keys := range map[string]map[string][]byte{
		"missing": {}, "short": {"k": key(1)[:31]}, "named with a colon": {"k:": key(1), "k": key(1)},
	} {
		if _, err := New("k", keys); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestUnusable(t *testing.T) {
	s, err := New("k1", map[string][]byte{"k1": key(1)})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Unusable("k1"); err != nil {
		t.Errorf("the present key: %v", err)
	}
	if err := s.Unusable("k2"); !errors.Is(err, errUnknownKey) {
		t.Errorf("a key that the Sealer does not know yet: %v", err)
	}
	down := errors.New("the plugin is down")
	if err := s.Use("k1", map[string][]byte{"k1": key(1)}, map[string]error{"k2": down}); err != nil {
		t.Fatal(err)
	}
	if err := s.Unusable("k2"); !errors.Is(err, down) {
		t.Errorf("a key that a plugin holds: %v", err)
	}
}
