package guard

import (
	"path/filepath"

	"github.com/kontiki/kontiki/node/cgroup"
)

// cgroups kills what is in the pods' cgroups.
type cgroups struct {
	root   cgroup.Root
	parent string
}

func newCgroups(parent string) cgroups { return cgroups{cgroup.Host(), parent} }

// kill kills all processes of a pod. left says whether there were any.
func (c cgroups) kill(uid string) (left bool, err error) {
	return c.root.Kill(filepath.Join(c.parent, "pod"+filepath.Base(uid)))
}
