package admin

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// imageCommand imports images through the API on the nodes.
func imageCommand() *cobra.Command {
	var kubeconfig string
	cmd := &cobra.Command{Use: "image", Short: "Import images on the cluster's nodes"}
	load := &cobra.Command{Use: "import FILE.tar", Short: "Import an OCI or Docker archive on every node (for machines without a registry)",
		Long: `Import an OCI or Docker archive on every node, for machines without a registry.

While its registry cannot be reached, an imported image is also used by pods whose image is pulled at each start (imagePullPolicy:
Always, the default for images without a tag). If the registry can be reached, its image is used.`, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return importImages(cmd.Context(), kubeconfig, args[0]) }}
	load.Flags().StringVar(&kubeconfig, "kubeconfig", "", "the cluster's kubeconfig (default: this machine's cluster)")
	cmd.AddCommand(load)
	return cmd
}

func importImages(ctx context.Context, kubeconfig, path string) error {
	config, err := Config(kubeconfig)
	if err != nil {
		return err
	}
	set, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	nodes, err := set.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	if len(nodes.Items) == 0 {
		return fmt.Errorf("the cluster has no nodes to import images into")
	}
	var failed []error
	for _, node := range nodes.Items {
		begin := time.Now()
		answer, err := importInto(ctx, set.CoreV1().RESTClient(), node.Name, path)
		if err != nil {
			failed = append(failed, fmt.Errorf("import into %s: %w", node.Name, err))
			continue
		}
		fmt.Printf("%s: %s (%.1f s)\n", node.Name, answer, time.Since(begin).Seconds())
	}
	return errors.Join(failed...)
}

// importInto sends an image archive to a node's agent and returns its response. An error of the agent has its text.
func importInto(ctx context.Context, core rest.Interface, node, path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	body, err := core.Post().Resource("nodes").Name(node).SubResource("proxy").Suffix("kontiki/images").
		SetHeader("Content-Type", "application/x-tar").Body(file).DoRaw(ctx)
	var status *apierrors.StatusError
	if errors.As(err, &status) && status.ErrStatus.Details != nil {
		for _, cause := range status.ErrStatus.Details.Causes { // what is no Status object is the agent's own text
			if text := strings.TrimSpace(cause.Message); cause.Type == metav1.CauseTypeUnexpectedServerResponse && text != "" {
				return "", errors.New(text)
			}
		}
	}
	return strings.TrimSpace(string(body)), err
}
