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

// Settings are flags, by their names, that must be the same on all masters.
type Settings struct {
	// Fixed hold for the cluster's life. Its first leader records them, and a master with others does not join or start.
	Fixed map[string]string
	// Shared may be changed, on one master after the other. Until they are the same everywhere, what is done depends on which
	// master does it, and Status calls it a problem.
	Shared map[string]string
}

const settingsKey = kv.OwnPrefix + "settings"

// fixedSettings are those recorded in the state; nil before the first leader has.
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

// recordSettings is the duty of the leader that records the fixed settings where none are, and those that a newer program adds.
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

// checkSettings says whether fixed settings are the cluster's; master is whose they are.
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

// differences words which shared settings are not the same on all masters that told theirs.
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
