package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/kontiki/kontiki/cluster/backup"
	"github.com/kontiki/kontiki/cluster/identity"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/internal/pause"
	"github.com/kontiki/kontiki/internal/random"
	"github.com/kontiki/kontiki/internal/sealed"
	clusterv1 "github.com/kontiki/kontiki/proto/kontiki/cluster/v1"
)

// A key of Secrets is dropped when nothing that the cluster can read is encrypted with it any more. That is established in this order,
// by the leader, from the state alone, so that another leader continues where this one ended:
//
//  1. The API re-encrypts every value with the present key (api/objects, Service.Reseal).
//  2. The old key's mark is put into the store (retirement, below). A command that puts a value encrypted with a marked key fails
//     (sealed.Guard), so a write that a slow master prepared long ago can no longer add one.
//  3. A view that contains the mark contains no value encrypted with the key. Its revision is recorded: later history has none either.
//  4. After Timings.SecretHistory, in which clients can still resume watches and lists from before, every master compacts its history up
//     to that revision.
//  5. No master's own backups need the key.
//  6. The next identity is without the key. Its command has the condition that no backup was restored since step 3, and puts a key whose
//     absence is a condition of the restore of backups that need the old key.
//
// The log and the snapshots of raft may have values encrypted with the key for a while. They are never decrypted: a master that starts
// from them applies the re-encryption as well, before it drops the key.

// rewriteLevel is the feature level at which every master's writes have the condition of step 2.
const rewriteLevel = 5

// retirement is the value of an old key's mark.
type retirement struct {
	Since time.Time `json:"since"`
	// Clean is the revision of a view without values encrypted with the key; At is the time at which it was read, and Epoch the number of
	// restores then.
	Clean uint64    `json:"clean,omitempty"`
	Epoch uint64    `json:"epoch,omitempty"`
	At    time.Time `json:"at,omitzero"`
	// Compact tells the masters to drop their history up to Clean.
	Compact bool `json:"compact,omitempty"`
}

// finishKey is put to drop the old keys without waiting for histories and backups. Its value is the name of the newest key at that time.
const finishKey = identity.Key + "/finish-secret-keys"

func retirementOf(view kv.View, key string) (r retirement, revision uint64) {
	v, ok := view.Get(sealed.RetiredPrefix + key)
	if !ok {
		return r, 0
	}
	if err := json.Unmarshal(v.Value, &r); err != nil {
		return retirement{}, v.ModRevision // written anew by the next step
	}
	return r, v.ModRevision
}

// compactRetired drops the history that old keys encrypted, if the marks in a view say so. Every master calls it when a mark changes.
func (c *Cluster) compactRetired(view kv.View) {
	view.Range(sealed.RetiredPrefix, kv.PrefixEnd(sealed.RetiredPrefix), func(v *kv.Version) bool {
		var r retirement
		if json.Unmarshal(v.Value, &r) == nil && r.Compact {
			c.store.Compact(r.Clean)
		}
		return true
	})
}

// Keyring uses the keys of Secrets on this master.
type Keyring interface {
	// Wrap creates a key that the configured KMS plugin encrypts, or returns nil if none is configured.
	Wrap(ctx context.Context) (*identity.WrappedKey, error)
	// Unusable returns why this master cannot encrypt and decrypt with a key of the identity yet, by the key's name; nil if it can.
	Unusable(key string) error
	// Plugin describes the configured plugin; nil if there is none.
	Plugin() *PluginStatus
}

// PluginStatus is the state of a master's KMS plugin.
type PluginStatus struct {
	Provider string `json:"provider"`
	Healthy  bool   `json:"healthy"`
	KeyID    string `json:"keyID,omitempty"`
	Error    string `json:"error,omitempty"`
}

// SetKeyring sets what uses the keys of Secrets. Call it before Run.
func (c *Cluster) SetKeyring(k Keyring) { c.keyring.Store(&k) }

// MasterSecretKeys is what one master needs the old keys of Secrets for.
type MasterSecretKeys struct {
	Name      string `json:"name"`
	Reachable bool   `json:"reachable"`
	// Generation is that of the identity that the master has.
	Generation uint64 `json:"generation"`
	// History has the number of superseded values by the name of their key, Backups the master's own backups that need a key.
	History map[string]int      `json:"history,omitempty"`
	Backups map[string][]string `json:"backups,omitempty"`
	// Unusable says why the master cannot use a key of its identity, by the key's name.
	Unusable map[string]string `json:"unusable,omitempty"`
	Plugin   *PluginStatus     `json:"plugin,omitempty"`
}

func (c *Cluster) ownSecretKeys() MasterSecretKeys {
	id := c.identity.Now()
	own := MasterSecretKeys{Name: c.cfg.Name, Reachable: true, Generation: id.Generation, History: map[string]int{}}
	if old := id.OldSecretKeys(); len(old) > 0 {
		c.store.HistoryVersions("/", func(v *kv.Version) bool {
			if name, ok := sealed.Key(v.Value); ok {
				own.History[string(name)]++
			}
			return true
		})
		own.Backups = c.backups.NeedKeys()
	}
	if k := c.keyring.Load(); k != nil {
		own.Unusable, own.Plugin = unusableKeys(id.Identity, *k), (*k).Plugin()
	}
	return own
}

func unusableKeys(id *identity.Identity, k Keyring) map[string]string {
	out := map[string]string{}
	for name := range id.SecretKeys {
		if why := k.Unusable(name); why != nil {
			out[name] = why.Error()
		}
	}
	for name := range id.WrappedKeys {
		if why := k.Unusable(name); why != nil {
			out[name] = why.Error()
		}
	}
	return out
}

// SecretKeys serves other masters.
func (s certsService) SecretKeys(context.Context, *clusterv1.SecretKeysRequest) (*clusterv1.SecretKeysResponse, error) {
	data, err := json.Marshal(s.c.ownSecretKeys())
	return &clusterv1.SecretKeysResponse{Json: data}, err
}

// everyMastersKeys asks all masters. One that does not respond is returned as not reachable.
func (c *Cluster) everyMastersKeys(ctx context.Context) []MasterSecretKeys {
	ctx, cancel := context.WithTimeout(ctx, everyMasterBound)
	defer cancel()
	servers := c.consensus.Servers()
	all := make([]MasterSecretKeys, len(servers))
	var wg sync.WaitGroup
	for i, server := range servers {
		wg.Go(func() {
			all[i] = MasterSecretKeys{Name: string(server.ID)}
			if string(server.ID) == c.cfg.Name {
				all[i] = c.ownSecretKeys()
				return
			}
			conn, err := c.consensus.Line(string(server.Address))
			if err != nil {
				return
			}
			response, err := clusterv1.NewCertsServiceClient(conn).SecretKeys(ctx, &clusterv1.SecretKeysRequest{}, grpc.WaitForReady(true))
			var own MasterSecretKeys
			if err == nil && json.Unmarshal(response.Json, &own) == nil && own.Name == string(server.ID) {
				all[i] = own
			}
		})
	}
	wg.Wait()
	slices.SortFunc(all, func(a, b MasterSecretKeys) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// unusable describes the masters that cannot use a key.
func unusable(masters []MasterSecretKeys, key string) (out []string) {
	for _, m := range masters {
		switch why, ok := m.Unusable[key]; {
		case !m.Reachable:
			out = append(out, fmt.Sprintf("the master %s does not say which keys it can use", m.Name))
		case ok:
			out = append(out, fmt.Sprintf("the master %s cannot use the key %s: %s", m.Name, key, why))
		}
	}
	return out
}

// retirePause is how often the leader looks whether an old key can be dropped, while something still needs it.
const retirePause = 2 * time.Second

// retireSecretKeys is the leader's duty that drops old keys of Secrets.
func (c *Cluster) retireSecretKeys(ctx context.Context) error {
	for ctx.Err() == nil {
		id := c.identity.Now()
		if len(id.OldSecretKeys()) == 0 {
			select {
			case <-id.Changed:
			case <-ctx.Done():
			}
			continue
		}
		again := rotationPoll
		for _, key := range id.OldSecretKeys() {
			waiting, err := c.retire(ctx, id.Identity, key)
			switch {
			case err != nil && ctx.Err() == nil:
				c.log.Info("an old key of Secrets could not be dropped yet", "key", key, "error", err)
				again = retirePause
			case waiting.long:
				again = retirePause
			}
		}
		pause.For(ctx, again)
	}
	return nil
}

// wait says what a key is still needed for; empty text means that the last step was taken. long waits are for more than a moment.
type wait struct {
	text string
	long bool
}

// retire takes the next step in the retirement of an old key, if it can.
func (c *Cluster) retire(ctx context.Context, id *identity.Identity, key string) (wait, error) {
	view, err := c.Consistent(ctx)
	if err != nil {
		return wait{}, err
	}
	masters := c.everyMastersKeys(ctx)
	w, next, drop := c.nextRetirement(view, id, key, masters)
	mark, revision := retirementOf(view, key)
	switch {
	case drop:
		epoch, epochRevision, err := backup.EpochOf(view)
		if err != nil {
			return wait{}, err
		}
		if epoch.Number != mark.Epoch {
			return wait{text: "a backup was restored"}, nil
		}
		_, err = c.changeIdentityIf(ctx, func(present *identity.Identity) (*identity.Identity, error) {
			return present.WithoutSecretKeys([]string{key})
		}, kv.Op{Key: sealed.RetiredPrefix + key, Check: true, Cond: kv.AtRevision, Revision: revision}, backup.EpochUnchanged(epochRevision),
			kv.Op{Key: sealed.DroppedPrefix + key, Value: []byte(time.Now().UTC().Format(time.RFC3339))})
		if err == nil {
			c.log.Info("an old key of Secrets was dropped", "key", key)
		}
		return wait{}, err
	case next != nil:
		value, err := json.Marshal(next)
		if err != nil {
			return wait{}, err
		}
		_, err = c.Propose(ctx, &kv.Command{ID: random.CommandID(), Ops: []kv.Op{{Key: sealed.RetiredPrefix + key, Value: value, Cond: kv.AtOrAbsent(revision), Revision: revision}}})
		return wait{}, err // if another leader was faster, its step counts
	}
	return w, nil
}

// nextRetirement decides on the next step for an old key: what it waits for, or the next value of its mark, or that it can be dropped.
func (c *Cluster) nextRetirement(view kv.View, id *identity.Identity, key string, masters []MasterSecretKeys) (w wait, next *retirement, drop bool) {
	now := time.Now().UTC().Truncate(time.Second)
	epoch, _, err := backup.EpochOf(view)
	if err != nil {
		return wait{text: err.Error(), long: true}, nil, false
	}
	mark, marked := retirementOf(view, key)
	clean := mark.Clean > 0 && mark.Epoch == epoch.Number
	if c.FeatureLevel() < rewriteLevel {
		return wait{fmt.Sprintf("the feature level to rise to %d: every master must be upgraded", rewriteLevel), true}, nil, false
	}
	var behind []string
	for _, m := range masters {
		switch {
		case !m.Reachable:
			behind = append(behind, fmt.Sprintf("the master %s does not answer (start it, or remove it with `kontiki cluster remove %s`)", m.Name, m.Name))
		case m.Generation < id.Generation:
			behind = append(behind, fmt.Sprintf("the master %s has not adopted the last change (see its log)", m.Name))
		}
	}
	if len(behind) > 0 {
		return wait{strings.Join(behind, ", "), true}, nil, false
	}
	if n := sealed.Count(view)[key]; n > 0 {
		return wait{text: fmt.Sprintf("%d objects to be encrypted with the present key", n)}, nil, false
	}
	finish := false
	if v, ok := view.Get(finishKey); ok {
		finish = string(v.Value) == id.SealingKey()
	}
	due := mark.At.Add(c.cfg.Timings.SecretHistory)
	switch {
	case marked == 0:
		return wait{}, &retirement{Since: now}, false
	case !clean:
		return wait{}, &retirement{Since: mark.Since, Clean: view.Revision(), Epoch: epoch.Number, At: now}, false
	case !mark.Compact && !finish && now.Before(due):
		return wait{fmt.Sprintf("clients that resume watches and lists from before the rotation, until %s", due.Format(time.RFC3339)), true}, nil, false
	case !mark.Compact:
		mark.Compact = true
		return wait{}, &mark, false
	}
	for _, m := range masters {
		if n := m.History[key]; n > 0 {
			return wait{text: fmt.Sprintf("the master %s to drop %d values from its history", m.Name, n)}, nil, false
		}
	}
	if finish {
		return wait{}, nil, true
	}
	var needed []string
	for _, m := range masters {
		if files := m.Backups[key]; len(files) > 0 {
			needed = append(needed, fmt.Sprintf("%d backups of the master %s (the newest is %s)", len(files), m.Name, files[len(files)-1]))
		}
	}
	if len(needed) > 0 {
		return wait{strings.Join(needed, ", ") + " that cannot be restored without it; `kontiki secrets rotate --finish` drops it now", true}, nil, false
	}
	return wait{}, nil, true
}

// SecretKeys is what `kontiki secrets status` shows. It contains no keys.
type SecretKeys struct {
	// Current is the name of the key that encrypts; Next is the one that will, once every master can use it.
	Current string      `json:"current"`
	Next    string      `json:"next,omitempty"`
	Keys    []SecretKey `json:"keys"`
	// Objects is the number of encrypted objects, Stale how many of them are not encrypted with the current key yet.
	Objects int                `json:"objects"`
	Stale   int                `json:"stale"`
	Masters []MasterSecretKeys `json:"masters"`
	// Problems are sentences about what keeps Secrets from being read, written or re-encrypted.
	Problems []string `json:"problems,omitempty"`
}

// SecretKey is one key.
type SecretKey struct {
	Name     string `json:"name"`
	Provider string `json:"provider,omitempty"` // the KMS plugin that encrypts it; empty for the cluster's own
	KeyID    string `json:"keyID,omitempty"`
	Objects  int    `json:"objects"`
	// Waiting says what an old key is kept for.
	Waiting string `json:"waiting,omitempty"`
}

// SecretKeys collects the state of the keys of Secrets from all masters.
func (c *Cluster) SecretKeys(ctx context.Context) (*SecretKeys, error) {
	view, err := c.Consistent(ctx)
	if err != nil {
		return nil, err
	}
	id := c.identity.Now().Identity
	out := &SecretKeys{Current: id.SealingKey(), Next: id.NextSealingKey(), Masters: c.everyMastersKeys(ctx)}
	counts := sealed.Count(view)
	names := slices.Concat(slices.Collect(maps.Keys(id.SecretKeys)), slices.Collect(maps.Keys(id.WrappedKeys)))
	for name, n := range counts {
		out.Objects += n
		if name != out.Current {
			out.Stale += n
		}
		if !slices.Contains(names, name) {
			out.Problems = append(out.Problems, fmt.Sprintf("%d objects are encrypted with the key %s, which this cluster does not have", n, name))
		}
	}
	old := id.OldSecretKeys()
	slices.Sort(names)
	for _, name := range names {
		wrapped := id.WrappedKeys[name]
		k := SecretKey{Name: name, Objects: counts[name], Provider: wrapped.Provider, KeyID: wrapped.KeyID}
		if slices.Contains(old, name) {
			w, _, _ := c.nextRetirement(view, id, name, out.Masters)
			k.Waiting = w.text
		}
		out.Keys = append(out.Keys, k)
	}
	out.Problems = append(out.Problems, keyProblems(id, out.Masters)...)
	slices.Sort(out.Problems)
	return out, nil
}

func keyProblems(id *identity.Identity, masters []MasterSecretKeys) (problems []string) {
	for _, m := range masters {
		if !m.Reachable {
			problems = append(problems, fmt.Sprintf("the master %s does not answer", m.Name))
			continue
		}
		for name, why := range m.Unusable {
			problems = append(problems, fmt.Sprintf("the master %s cannot use the key %s: %s", m.Name, name, why))
		}
		switch {
		case m.Plugin == nil && id.CurrentWrappedKey != "":
			problems = append(problems, fmt.Sprintf("the master %s has no KMS provider configured", m.Name))
		case m.Plugin != nil && !m.Plugin.Healthy:
			problems = append(problems, fmt.Sprintf("the KMS plugin %s of the master %s is not healthy: %s", m.Plugin.Provider, m.Name, m.Plugin.Error))
		case m.Plugin != nil && id.CurrentWrappedKey != "" && id.NextWrappedKey == "" && (m.Plugin.KeyID != id.WrappedKeys[id.CurrentWrappedKey].KeyID || m.Plugin.Provider != id.WrappedKeys[id.CurrentWrappedKey].Provider):
			problems = append(problems, fmt.Sprintf("the KMS plugin %s of the master %s uses another key than that of the present key of Secrets: run `kontiki secrets rotate`", m.Plugin.Provider, m.Name))
		case m.Plugin != nil && id.CurrentWrappedKey == "" && id.NextWrappedKey == "":
			problems = append(problems, fmt.Sprintf("the master %s has the KMS provider %s, but Secrets are not encrypted with it yet: run `kontiki secrets rotate`", m.Name, m.Plugin.Provider))
		}
	}
	return problems
}

// ErrNoOldKeys means that there are no old keys to drop.
var ErrNoOldKeys = errors.New("there is no old key to drop")

// FinishSecretKeys makes the leader drop the old keys without waiting for clients that resume from before the rotation, or for backups
// that need the keys. What is in use is still re-encrypted first.
func (c *Cluster) FinishSecretKeys(ctx context.Context) error {
	if _, err := c.Consistent(ctx); err != nil {
		return err
	}
	id := c.identity.Now()
	switch {
	case id.NextSecretKey != "":
		return fmt.Errorf("%w: the new key is not in use yet", identity.ErrNotMoved)
	case len(id.OldSecretKeys()) == 0:
		return fmt.Errorf("%w: %w", identity.ErrNotRotated, ErrNoOldKeys)
	}
	_, err := c.Propose(ctx, &kv.Command{ID: random.CommandID(), Ops: []kv.Op{{Key: finishKey, Value: []byte(id.SealingKey())}}})
	return err
}
