package admin

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/kubernetes"

	"github.com/kontiki/kontiki/cmd/kontiki/why"
	schedulerconfig "github.com/kontiki/kontiki/scheduler/config"
)

func whyCommand() *cobra.Command {
	var kubeconfig, namespace, schedulerFile string
	cmd := &cobra.Command{
		Use:   "why POD",
		Short: "Say why a pod is where it is, or why it does not run",
		Long: "Say on one screen why a pod is where it is, or why it does not run: its scheduling gates, what each node lacks, preemption, claims that\n" +
			"are not bound, images, crashes and probes, and the last warnings about it; for a pod that does not exist, why pods could not be created.",
		Example: "  kontiki why web-7d4b9 -n shop",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			config, err := configIn(kubeconfig, &namespace)
			if err != nil {
				return err
			}
			set, err := kubernetes.NewForConfig(config)
			if err != nil {
				return err
			}
			var scheduler *schedulerconfig.Config
			if schedulerFile != "" {
				if scheduler, _, err = schedulerconfig.ReadFile(schedulerFile); err != nil {
					return fmt.Errorf("--scheduler-config: %w", err)
				}
			}
			return why.Run(cmd.Context(), why.Options{Client: set, Namespace: namespace, Name: args[0], Scheduler: scheduler, Out: cmd.OutOrStdout(), Now: time.Now})
		},
	}
	cmd.ValidArgsFunction = completion(func(ctx context.Context) ([]string, error) { return podNames(ctx, kubeconfig, namespace) })
	cmd.Flags().StringVar(&kubeconfig, "kubeconfig", "", "the cluster's kubeconfig (default: this machine's cluster)")
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "", "the pod's namespace (default: the kubeconfig's)")
	cmd.Flags().StringVar(&schedulerFile, "scheduler-config", "", "the masters' KubeSchedulerConfiguration, if they were started with one")
	return cmd
}
