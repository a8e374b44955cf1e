package auth

import (
	"errors"
	"testing"
	"time"
)

// Tokens that were verified before are checked again in everything but their signature.
func TestVerifiedTokensAreCheckedEachTime(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	now := start
	known := subjects{"sa/ns/sa": "u1"}
	key := newKey(t)
	tokens := newTokens(t, key, known, &now)
	token, _, err := tokens.Issue(Binding{Namespace: "ns", ServiceAccount: "sa", ServiceAccountUID: "u1"}, nil, 3600)
	if err != nil {
		t.Fatal(err)
	}
	check := func(audiences ...string) error {
		_, _, err := tokens.Check(token, audiences)
		return err
	}
	for range 2 {
		if err := check(); err != nil {
			t.Fatal(err)
		}
	}
	if err := check("other"); !errors.Is(err, ErrToken) {
		t.Errorf("for another audience: %v", err)
	}
	known["sa/ns/sa"] = "u2"
	if err := check(); !errors.Is(err, ErrToken) {
		t.Errorf("with another account: %v", err)
	}
	known["sa/ns/sa"] = "u1"
	now = start.Add(2 * time.Hour)
	if err := check(); !errors.Is(err, ErrToken) {
		t.Errorf("after it expired: %v", err)
	}
	now = start
	if err := tokens.Use(newKey(t), key); err != nil {
		t.Fatal(err)
	}
	if err := check(); err != nil {
		t.Errorf("with a new key beside the old one: %v", err)
	}
	if err := tokens.Use(newKey(t)); err != nil {
		t.Fatal(err)
	}
	if err := check(); !errors.Is(err, ErrToken) {
		t.Errorf("with another key: %v", err)
	}
}

func BenchmarkCheckToken(b *testing.B) {
	now := time.Now()
	tokens, err := NewTokens("https://issuer", newKey(b), subjects{"sa/ns/sa": "u1"}, func() time.Time { return now })
	if err != nil {
		b.Fatal(err)
	}
	token, _, err := tokens.Issue(Binding{Namespace: "ns", ServiceAccount: "sa", ServiceAccountUID: "u1"}, nil, 3600)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := tokens.Check(token, nil); err != nil {
			b.Fatal(err)
		}
	}
}
