package admin

import (
	"context"
	"os"
	"os/exec"
	"time"

	"github.com/spf13/cobra"

	"github.com/kontiki/kontiki/cmd/kontiki/top"
)

func topCommand() *cobra.Command {
	var kubeconfig, namespace string
	var all bool
	cmd := &cobra.Command{
		Use:   "top [KIND]",
		Short: "Show the cluster's objects live in the terminal, with the keys of k9s",
		Long: "Show the cluster's objects live in the terminal: pods, or another kind by its plural, kind or short name, with what pods and nodes use.\n" +
			"Keys are those of k9s for the essentials: : another kind, / filter, 0 all namespaces, l logs, d describe, y YAML, s shell, ctrl-d delete,\n" +
			"? all keys, esc back, q quit. Every request is made with the kubeconfig's rights; what they do not allow is said in the last line.",
		Example: "  kontiki top\n  kontiki top deployments -n shop\n  kontiki top nodes",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			config, err := configIn(kubeconfig, &namespace)
			if err != nil {
				return err
			}
			if all {
				namespace = ""
			}
			kind := "pods"
			if len(args) > 0 {
				kind = args[0]
			}
			return top.Run(cmd.Context(), top.Options{Config: config, Namespace: namespace, Kind: kind, Now: time.Now,
				Shell: func(ctx context.Context, namespace, pod string) (*exec.Cmd, error) {
					return shellIn(ctx, kubeconfig, namespace, pod)
				}})
		},
	}
	cmd.Flags().StringVar(&kubeconfig, "kubeconfig", "", "the cluster's kubeconfig (default: this machine's cluster)")
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "", "the first namespace (default: the kubeconfig's)")
	cmd.Flags().BoolVarP(&all, "all-namespaces", "A", false, "begin with all namespaces")
	return cmd
}

// shellIn returns the command of a shell in a pod: kubectl, which this program is, with the same kubeconfig.
func shellIn(ctx context.Context, kubeconfig, namespace, pod string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	args := []string{"kubectl", "exec", "-it", "--namespace", namespace, "pods/" + pod}
	if path := kubeconfigPath(kubeconfig); path != "" {
		args = append(args, "--kubeconfig", path)
	}
	args = append(args, "--", "sh", "-c", "command -v bash >/dev/null && exec bash || exec sh")
	return exec.CommandContext(ctx, self, args...), nil
}
