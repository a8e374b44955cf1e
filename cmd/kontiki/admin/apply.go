package admin

import (
	"errors"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/kontiki/kontiki/cmd/kontiki/apply"
)

func applyCommand() *cobra.Command {
	var o apply.Options
	var kubeconfig string
	var atomic bool
	cmd := &cobra.Command{
		Use:   "apply --atomic -f FILE|DIR|-",
		Short: "Apply all manifests or none, by one transaction",
		Long: "Apply manifests by one transaction: either all changes become visible at once, or nothing changes and the error names the objects\n" +
			"that cannot be applied. Fields are owned as with server-side apply. (To apply one object after the other: kontiki kubectl apply.)",
		Example: "  kontiki apply --atomic -f release/ --diff\n" +
			"  kontiki apply --atomic -f release/ --prune -l app=web --wait --rollback-on-failure",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !atomic {
				return errors.New("give --atomic; to apply one object after the other use `kontiki kubectl apply`")
			}
			config, err := configIn(kubeconfig, &o.Namespace)
			if err != nil {
				return err
			}
			o.Config, o.In, o.Out, o.Err = config, cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr()
			return apply.Run(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&atomic, "atomic", false, "apply all or nothing")
	f.StringSliceVarP(&o.Files, "filename", "f", nil, "a manifest, a directory of them, or - for standard input")
	f.StringVarP(&o.Namespace, "namespace", "n", "", "the namespace of objects that name none (default: the kubeconfig's)")
	f.StringVarP(&o.Selector, "selector", "l", "", "with --prune: a label selector for the objects of the release")
	f.BoolVar(&o.Prune, "prune", false, "delete applied objects that the selector matches and that are not in the manifests, in their namespaces and in the same transaction")
	f.BoolVar(&o.Diff, "diff", false, "show the changes before applying them")
	f.Var((*dryRun)(&o.DryRun), "dry-run", "do everything except changing anything; the values server and none are accepted too, as by kubectl")
	f.Lookup("dry-run").NoOptDefVal = "true"
	f.BoolVar(&o.Wait, "wait", false, "wait until all roll-outs are complete, and show their progress")
	f.DurationVar(&o.Timeout, "timeout", 5*time.Minute, "how long to wait")
	f.BoolVar(&o.Rollback, "rollback-on-failure", false, "with --wait: roll everything back, by one transaction, if a roll-out fails or takes too long")
	f.StringVar(&o.FieldManager, "field-manager", "kontiki-apply", "the owner of the applied fields")
	f.BoolVar(&o.Force, "force-conflicts", false, "take over fields from other managers")
	f.StringVar(&kubeconfig, "kubeconfig", "", "the cluster's kubeconfig (default: this machine's cluster)")
	return cmd
}

// dryRun is a flag that may be given without a value, or with one of kubectl's.
type dryRun bool

// String implements pflag.Value.
func (d *dryRun) String() string { return strconv.FormatBool(bool(*d)) }

// Type implements pflag.Value.
func (d *dryRun) Type() string { return "bool" }

// Set implements pflag.Value.
func (d *dryRun) Set(text string) error {
	switch text {
	case "server", "true":
		*d = true
	case "none", "false":
		*d = false
	case "client":
		return errors.New("a client-side dry run is not supported: use --dry-run=server")
	default:
		return errors.New("must be server or none")
	}
	return nil
}
