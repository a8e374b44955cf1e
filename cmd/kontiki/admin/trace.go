package admin

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/kontiki/kontiki/api/rest"
	"github.com/kontiki/kontiki/cmd/kontiki/podtrace"
	"github.com/kontiki/kontiki/internal/timeline"
)

func traceCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "trace", Short: "Say where time went"}
	cmd.AddCommand(tracePodCommand())
	return cmd
}

func tracePodCommand() *cobra.Command {
	var kubeconfig, namespace, output string
	cmd := &cobra.Command{
		Use:   "pod NAME",
		Short: "Say where the time went that a pod took to start",
		Long: "Say where the time went that a pod took to start: admission, raft, the scheduler, the way to its worker, volumes, images and containers, in\n" +
			"milliseconds. Masters and workers keep this in memory for the pods that began last, so no collector is needed, and after a restart of one of\n" +
			"them its part is not known. Any master answers; who may get the pod may see it.",
		Example: "  kontiki trace pod web-7d4b9 -n shop\n  kontiki trace pod web-7d4b9 -o json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch output {
			case "", "json", "yaml":
			default:
				return fmt.Errorf("--output: %q is neither json nor yaml", output)
			}
			if _, err := configIn(kubeconfig, &namespace); err != nil {
				return err
			}
			c, err := newClient(kubeconfig)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), limit)
			defer cancel()
			var d timeline.Document
			if err := c.call(ctx, http.MethodGet, rest.TimelinePath+url.PathEscape(namespace)+"/"+url.PathEscape(args[0]), nil, &d); err != nil {
				return err
			}
			switch output {
			case "json":
				return PrintJSON(&d)
			case "yaml":
				data, err := yaml.Marshal(&d)
				if err == nil {
					_, err = os.Stdout.Write(data)
				}
				return err
			}
			return podtrace.Print(os.Stdout, &d)
		},
	}
	cmd.ValidArgsFunction = completion(func(ctx context.Context) ([]string, error) { return podNames(ctx, kubeconfig, namespace) })
	cmd.Flags().StringVar(&kubeconfig, "kubeconfig", "", "the cluster's kubeconfig (default: this machine's cluster)")
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "", "the pod's namespace (default: the kubeconfig's)")
	cmd.Flags().StringVarP(&output, "output", "o", "", "json or yaml")
	return cmd
}
