package admin

import (
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kubectl/pkg/cmd/util"
)

// pruneKinds are the kinds that `kubectl apply --prune` prunes by default, in the form of --prune-allowlist
// (k8s.io/kubectl/pkg/util/prune, which does not export them).
var pruneKinds = []string{
	"core/v1/ConfigMap", "core/v1/Endpoints", "core/v1/PersistentVolumeClaim", "core/v1/Pod", "core/v1/ReplicationController", "core/v1/Secret",
	"core/v1/Service", "batch/v1/Job", "batch/v1/CronJob", "networking.k8s.io/v1/Ingress", "apps/v1/DaemonSet", "apps/v1/Deployment",
	"apps/v1/ReplicaSet", "apps/v1/StatefulSet", "core/v1/Namespace", "core/v1/PersistentVolume",
}

// pruneWhatIsServed makes `apply --prune` prune those of its default kinds that the cluster serves. kubectl itself fails at the
// first one that is not served.
func pruneWhatIsServed(kubectl *cobra.Command, mapper func() (meta.RESTMapper, error)) {
	apply, _, err := kubectl.Find([]string{"apply"})
	if err != nil || apply.Name() != "apply" {
		return
	}
	run := apply.Run
	apply.Run = func(cmd *cobra.Command, args []string) {
		flags := cmd.Flags()
		if prune, err := flags.GetBool("prune"); err == nil && prune && !flags.Changed("prune-allowlist") && !flags.Changed("applyset") {
			m, err := mapper()
			util.CheckErr(err)
			served, err := servedOf(m, pruneKinds)
			util.CheckErr(err)
			for _, kind := range served {
				util.CheckErr(flags.Set("prune-allowlist", kind))
			}
		}
		run(cmd, args)
	}
}

// servedOf returns those of the kinds that are served.
func servedOf(mapper meta.RESTMapper, kinds []string) (served []string, err error) {
	for _, kind := range kinds {
		parts := strings.Split(strings.TrimPrefix(kind, "core"), "/")
		_, err := mapper.RESTMapping(schema.GroupKind{Group: parts[0], Kind: parts[2]}, parts[1])
		switch {
		case err == nil:
			served = append(served, kind)
		case !meta.IsNoMatchError(err):
			return nil, err
		}
	}
	return served, nil
}
