package cluster

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/kontiki/kontiki/cluster/errclass"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/internal/random"
)

// Settings are the values of flags, by flag name, that must be the same on all masters.
type Settings struct {
	// Fixed can never change. The first leader stores them, and a master with other values is not admitted and does not start.
	Fixed map[string]string
	// Shared may be changed, on one master after the other. While they differ, the behaviour depends on which master acts, and Status
	// reports a problem.
	Shared map[string]string
}

const settingsKey = kv.OwnPrefix + "settings"

// fixedSettings returns the fixed settings in a view; nil before the first leader has stored them.
func fixedSettings(v kv.View) (map[string]string, error) {
	version, ok := v.Get(settingsKey)
	if !ok {
		return nil, nil
	}
	var fixed map[string]string
	if err := json.Unmarshal(version.Value, &fixed); err != nil {
		return nil, fmt.Errorf("read the cluster's settings: %w", err)
	}
	return fixed, nil
}

// recordSettings is the leader's duty that stores the fixed settings if there are none, and those that a newer program adds.
func (c *Cluster) recordSettings(ctx context.Context) error {
	for {
		view, err := c.Consistent(ctx)
		if err != nil {
			return fmt.Errorf("record the settings: %w", err)
		}
		fixed, err := fixedSettings(view)
		if err != nil {
			return err
		}
		if fixed == nil {
			fixed = map[string]string{}
		}
		have := len(fixed)
		for name, value := range c.cfg.Settings.Fixed {
			if _, ok := fixed[name]; !ok {
				fixed[name] = value
			}
		}
		if len(fixed) == have {
			return nil
		}
		value, err := json.Marshal(fixed)
		if err != nil {
			return err
		}
		var revision uint64
		if version, ok := view.Get(settingsKey); ok {
			revision = version.ModRevision
		}
		_, err = c.Propose(ctx, &kv.Command{ID: random.CommandID(), Ops: []kv.Op{{Key: settingsKey, Value: value, Cond: kv.AtOrAbsent(revision), Revision: revision}}})
		if err != nil && !errors.Is(err, kv.ErrOutcomeUnknown) {
			return fmt.Errorf("record the settings: %w", err)
		}
	}
}

// checkSettings returns errclass.ErrSettings if the fixed settings of a master differ from the cluster's.
func (c *Cluster) checkSettings(master string, own map[string]string) error {
	fixed, err := fixedSettings(c.store.View())
	if err != nil {
		return err
	}
	if fixed == nil {
		fixed = c.cfg.Settings.Fixed
	}
	for _, name := range slices.Sorted(maps.Keys(own)) {
		if want, ok := fixed[name]; ok && own[name] != want {
			return fmt.Errorf("%w: --%s is %s on %s, and the cluster was made with %s, which cannot be changed: set --%s %s there",
				errclass.ErrSettings, name, cmp.Or(own[name], "empty"), master, cmp.Or(want, "nothing"), name, want)
		}
	}
	return nil
}

// differences describes the shared settings that differ among the masters that responded.
func differences(members []MemberStatus) (differ []string) {
	names := map[string]bool{}
	for _, m := range members {
		for name := range m.Settings {
			names[name] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		var masters []string
		values := map[string]bool{}
		for _, m := range members {
			if value, ok := m.Settings[name]; ok { // an older program does not know it
				values[value] = true
				masters = append(masters, fmt.Sprintf("%s on %s", value, m.Name))
			}
		}
		if len(values) > 1 {
			differ = append(differ, fmt.Sprintf("--%s must be the same on all masters: it is %s", name, strings.Join(masters, ", ")))
		}
	}
	return differ
}
