package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/kontiki/kontiki/cluster"
	"github.com/kontiki/kontiki/cmd/kontiki/overview"
)

func statusCommand() *cobra.Command {
	var f flags
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show on one screen how the cluster is, and what needs attention",
		Long: "Show on one screen how the cluster is: masters, workers, pods, workloads, claims, how full it is, the warnings of the last hour, and what needs\n" +
			"attention, with the command that shows more. It exits with 2 if something needs attention.",
		Example: "  kontiki status\n  kontiki status -o json",
		Args:    cobra.NoArgs,
	}
	f.add(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		config, err := Config(f.kubeconfig)
		if err != nil {
			return err
		}
		config.ContentType = "application/vnd.kubernetes.protobuf"
		set, err := kubernetes.NewForConfig(config)
		if err != nil {
			return err
		}
		return f.run(limit, func(ctx context.Context, c *client, _ []string) error { return status(ctx, c, set) })(cmd, args)
	}
	return cmd
}

func status(ctx context.Context, c *client, set kubernetes.Interface) error {
	asked := *c
	asked.json = false // the answers are not printed
	report, err := overview.Gather(ctx, overview.Options{
		Client: set, Now: time.Now,
		Status: func(ctx context.Context) (*cluster.Status, error) {
			var s cluster.Status
			return &s, asked.call(ctx, http.MethodGet, ClusterPath, nil, &s)
		},
		Usage: func(ctx context.Context) (map[string]corev1.ResourceList, error) {
			data, err := set.CoreV1().RESTClient().Get().AbsPath("/apis/metrics.k8s.io/v1beta1/nodes").SetHeader("Accept", "application/json").DoRaw(ctx)
			if err != nil {
				return nil, err
			}
			return usageOf(data)
		},
	})
	if err != nil {
		return err
	}
	if c.json {
		err = PrintJSON(report)
	} else {
		err = report.Print(os.Stdout)
	}
	if err == nil && len(report.Attention) > 0 {
		err = ExitCode(2)
	}
	return err
}

// usageOf returns the usage in a NodeMetricsList.
func usageOf(data []byte) (map[string]corev1.ResourceList, error) {
	var list struct {
		Items []struct {
			Metadata struct{ Name string }
			Usage    corev1.ResourceList
		}
	}
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("the nodes' metrics: %w", err)
	}
	out := map[string]corev1.ResourceList{}
	for _, item := range list.Items {
		out[item.Metadata.Name] = item.Usage
	}
	return out, nil
}
