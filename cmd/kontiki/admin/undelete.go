package admin

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/kontiki/kontiki/cmd/kontiki/undelete"
)

func undeleteCommand() *cobra.Command {
	var o undelete.Options
	var kubeconfig, output string
	cmd := &cobra.Command{
		Use:   "undelete [TYPE/NAME | UID]...",
		Short: "List what was deleted in the last hour, or bring it back",
		Long: "List the objects that were deleted in the last hour, or create them again as they were, with the owners of their fields. Objects that have a\n" +
			"controller, such as the pods of a deployment, are not kept: their controller makes new ones. (docs/workloads.md)",
		Example: "  kontiki undelete                             # list what was deleted in the namespace\n" +
			"  kontiki undelete deployment/web configmap/settings\n" +
			"  kontiki undelete --all -n shop               # everything of the namespace, and the namespace itself\n" +
			"  kontiki undelete service/web -o yaml         # only show it",
		RunE: func(cmd *cobra.Command, args []string) error {
			switch output {
			case "":
			case "yaml":
				o.YAML = true
			default:
				return fmt.Errorf("-o %s: must be yaml", output)
			}
			config, err := configIn(kubeconfig, &o.Namespace)
			if err != nil {
				return err
			}
			o.Config, o.Names, o.Out, o.Err, o.Now = config, args, cmd.OutOrStdout(), cmd.ErrOrStderr(), time.Now
			return undelete.Run(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.Namespace, "namespace", "n", "", "the namespace of the objects (default: the kubeconfig's)")
	f.BoolVarP(&o.AllNamespaces, "all-namespaces", "A", false, "list the objects of all namespaces")
	f.BoolVar(&o.All, "all", false, "bring back everything that was deleted in the namespace, and the namespace itself; leave what exists")
	f.DurationVar(&o.Since, "since", 0, "only what was deleted within this time")
	f.Var((*dryRun)(&o.DryRun), "dry-run", "do everything except changing anything")
	f.Lookup("dry-run").NoOptDefVal = "true"
	f.BoolVar(&o.Forget, "forget", false, "drop the objects for good, instead of bringing them back")
	f.StringVarP(&output, "output", "o", "", "yaml: print the manifests, and change nothing")
	f.StringVar(&kubeconfig, "kubeconfig", "", "the cluster's kubeconfig (default: this machine's cluster)")
	return cmd
}
