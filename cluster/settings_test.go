package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/kontiki/kontiki/cluster/errclass"
	"github.com/kontiki/kontiki/test/await"
)

func ranged(pod, period string) func(*Config) {
	return func(cfg *Config) {
		cfg.Settings = Settings{Fixed: map[string]string{"pod-cidr": pod}, Shared: map[string]string{"period": period}}
	}
}

func TestAMasterWithOtherFixedSettingsIsRefused(t *testing.T) {
	t.Parallel()
	m := startMasters(t, 3, ranged("10.244.0.0/16", "5s"))
	wrong := func(err error, name string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), "--pod-cidr is 10.1.0.0/16 on "+name+", and the cluster was made with 10.244.0.0/16") {
			t.Errorf("%v", err)
		}
	}
	// One that wants to join leaves no trace.
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	stranger := testConfig(t, "stranger")
	stranger.Join, stranger.Token = []string{m.nodes[1].c.Address()}, m.token()
	ranged("10.1.0.0/16", "5s")(&stranger)
	c, err := Open(ctx, stranger)
	if err == nil {
		c.Close()
	}
	wrong(err, "stranger")
	await.That(t, "a cluster of three that is well", func() error {
		s, err := m.nodes[0].c.Status(ctx)
		if err == nil && (len(s.Members) != 3 || len(s.Problems) > 0) {
			err = fmt.Errorf("%+v", s)
		}
		return err
	})
	// One that was a member does not start with others either, also where it was the first, and comes back with the right ones.
	for _, n := range m.nodes[:2] {
		n.stop()
		ranged("10.1.0.0/16", "5s")(&n.cfg)
		n.start()
		select {
		case err := <-n.stopped:
			wrong(err, n.cfg.Name)
			if !errors.Is(err, errclass.ErrSettings) {
				t.Errorf("%v is no ErrSettings", err)
			}
		case <-n.c.Ready():
			t.Errorf("%s is ready", n.cfg.Name)
		case <-ctx.Done():
			t.Fatal("it neither stops nor is ready")
		}
		n.c = nil
		ranged("10.244.0.0/16", "5s")(&n.cfg)
		n.start()
		n.waitReady()
	}
}

func TestSharedSettingsThatDifferAreAProblem(t *testing.T) {
	t.Parallel()
	m := startMasters(t, 2, ranged("10.244.0.0/16", "5s"))
	n := m.nodes[1]
	for _, x := range []struct{ period, problems string }{
		{"10s", "--period must be the same on all masters: it is 5s on master-1, 10s on master-2"},
		{"5s", ""},
	} {
		n.stop()
		ranged("10.244.0.0/16", x.period)(&n.cfg)
		n.start()
		n.waitReady()
		// The others may reach a master that has just started a moment later.
		await.That(t, "the problems to be as they should", func() error {
			s, err := m.nodes[0].c.Status(context.Background())
			if err != nil {
				return err
			}
			if got := strings.Join(s.Problems, "; "); got != x.problems {
				return fmt.Errorf("they are %q, want %q", got, x.problems)
			}
			return nil
		})
	}
}

// TestSettingsThatNobodyRecordedAreLearned is a cluster of an earlier version, and one of a later version that has a setting more.
func TestSettingsThatNobodyRecordedAreLearned(t *testing.T) {
	t.Parallel()
	m := startMasters(t, 1)
	n := m.nodes[0]
	for _, settings := range []map[string]string{{"a": "1"}, {"a": "1", "b": "2"}} {
		n.stop()
		n.cfg.Settings.Fixed = settings
		n.start()
		n.waitReady()
		await.That(t, "the settings to be recorded", func() error {
			fixed, err := fixedSettings(n.c.View())
			if err == nil && len(fixed) != len(settings) {
				err = errors.New("they are not")
			}
			return err
		})
		for name := range settings {
			if err := n.c.checkSettings("x", map[string]string{name: "other"}); !errors.Is(err, errclass.ErrSettings) {
				t.Errorf("--%s: %v", name, err)
			}
		}
		if err := n.c.checkSettings("an older one", map[string]string{"unknown": "x"}); err != nil {
			t.Error(err)
		}
	}
}
