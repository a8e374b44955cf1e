package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/internal/random"
)

// apiHostsPrefix is the prefix of the keys under which each master stores Config.APIHosts, by its name. Each may have others, and no
// worker may get a certificate for any of them, from whichever master it asks.
const apiHostsPrefix = kv.OwnPrefix + "api-hosts/"

// recordAPIHosts stores this master's API hosts if the state has others for it.
func (c *Cluster) recordAPIHosts(ctx context.Context) error {
	hosts := slices.Clone(c.cfg.APIHosts)
	slices.Sort(hosts)
	value, err := json.Marshal(slices.Compact(hosts))
	if err != nil {
		return err
	}
	key := apiHostsPrefix + c.cfg.Name
	if v, ok := c.store.View().Get(key); ok && string(v.Value) == string(value) {
		return nil
	}
	_, err = c.Propose(ctx, &kv.Command{ID: random.CommandID(), Ops: []kv.Op{{Key: key, Value: value}}})
	if err != nil {
		return fmt.Errorf("store the names of the API at this master: %w", err)
	}
	return nil
}

// keepAPIHosts calls recordAPIHosts until it succeeds.
func (c *Cluster) keepAPIHosts(ctx context.Context) {
	for {
		err := c.recordAPIHosts(ctx)
		if err == nil || ctx.Err() != nil {
			return
		}
		c.log.Warn("trying again", "error", err)
		if !c.consensus.Leadership().Pause(ctx, time.Second) {
			return
		}
	}
}

// apiHosts returns the names and addresses of the API at all masters, as a view has them, and at this one.
func (c *Cluster) apiHosts(view kv.View) []string {
	hosts := slices.Clone(c.cfg.APIHosts)
	view.Range(apiHostsPrefix, kv.PrefixEnd(apiHostsPrefix), func(v *kv.Version) bool {
		var others []string
		if json.Unmarshal(v.Value, &others) == nil {
			hosts = append(hosts, others...)
		}
		return true
	})
	return hosts
}
