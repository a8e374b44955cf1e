package admin

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/kontiki/kontiki/cluster"
)

// Bounds of what a shell waits for.
const (
	completeTime = 2 * time.Second
	completeMost = 500
)

// completion completes a command's only argument with names that the cluster has. Without a cluster nothing is offered.
func completion(names func(ctx context.Context) ([]string, error)) func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completeTime)
		defer cancel()
		all, err := names(ctx)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var out []string
		for _, name := range all {
			if strings.HasPrefix(name, begun) && len(out) < completeMost {
				out = append(out, name)
			}
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}

// podNames lists the pods of a namespace.
func podNames(ctx context.Context, kubeconfig, namespace string) ([]string, error) {
	config, err := configIn(kubeconfig, &namespace)
	if err != nil {
		return nil, err
	}
	set, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	list, err := set.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{Limit: 10 * completeMost})
	if err != nil {
		return nil, err
	}
	var names []string
	for i := range list.Items {
		names = append(names, list.Items[i].Name)
	}
	return names, nil
}

// masterNames lists the masters.
func masterNames(ctx context.Context, kubeconfig string) ([]string, error) {
	c, err := newClient(kubeconfig)
	if err != nil {
		return nil, err
	}
	var status cluster.Status
	if err := c.call(ctx, http.MethodGet, ClusterPath, nil, &status); err != nil {
		return nil, err
	}
	var names []string
	for _, m := range status.Members {
		names = append(names, m.Name)
	}
	return names, nil
}
