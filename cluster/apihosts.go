package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"

	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/internal/random"
)

// apiHostsPrefix is the prefix of the keys under which each master stores Config.APIHosts, by its name. Each may have others, and no
// worker may get a certificate for any of them, from whichever master it asks.
const apiHostsPrefix = kv.OwnPrefix + "api-hosts/"

// storeAPIHosts stores this master's API hosts if the state has others for it, which it does after the first start and after a change of the
// flags. Where that fails, because the disks are full for example, refresh tries again.
func (c *Cluster) storeAPIHosts(ctx context.Context) {
	hosts := slices.Clone(c.cfg.APIHosts)
	slices.Sort(hosts)
	value, _ := json.Marshal(slices.Compact(hosts)) // a list of texts never fails
	key := apiHostsPrefix + c.cfg.Name
	if v, ok := c.store.View().Get(key); ok && bytes.Equal(v.Value, value) {
		return
	}
	bounded, cancel := context.WithTimeout(ctx, 10*c.cfg.Timings.Election)
	defer cancel()
	if _, err := c.Propose(bounded, &kv.Command{ID: random.CommandID(), Ops: []kv.Op{{Key: key, Value: value}}}); err != nil && ctx.Err() == nil {
		c.log.Warn("the names of the API at this master could not be stored yet, trying again", "error", err)
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
