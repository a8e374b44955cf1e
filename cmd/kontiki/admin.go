package main

import (
	"context"
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kontiki/kontiki/cluster"
	"github.com/kontiki/kontiki/cluster/pki"
	"github.com/kontiki/kontiki/cmd/kontiki/dev"
)

// adminConfig finds the cluster that an administrator's command is for: --kubeconfig, KUBECONFIG, this machine's
// development cluster, or the master that runs here.
func adminConfig(kubeconfig string) (*rest.Config, error) {
	if kubeconfig == "" {
		kubeconfig = os.Getenv("KUBECONFIG")
	}
	for _, path := range []string{dev.DefaultDir + "/kubeconfig", defaultServerDir + "/admin.kubeconfig"} {
		if kubeconfig != "" {
			break
		}
		if _, err := os.Stat(path); err == nil {
			kubeconfig = path
		}
	}
	if kubeconfig == "" {
		return nil, fmt.Errorf("no cluster found on this machine: name one with --kubeconfig, or start one with `kontiki dev`")
	}
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("--kubeconfig: %w", err)
	}
	config.QPS = -1
	return config, nil
}

// tokenCommand works on a master's host, with the master's own data.
func tokenCommand() *cobra.Command {
	var dir, role, description, output string
	var ttl time.Duration
	cmd := &cobra.Command{Use: "token", Short: "Manage join tokens, on a master's host"}
	cmd.PersistentFlags().StringVar(&dir, "data-dir", defaultServerDir, "the master's data")
	admin := func(run func(ctx context.Context, a *cluster.Admin) error) func(*cobra.Command, []string) error {
		return func(cmd *cobra.Command, _ []string) error {
			a, err := cluster.DialAdmin(dir)
			if err != nil {
				return err
			}
			defer a.Close()
			return run(cmd.Context(), a)
		}
	}
	create := &cobra.Command{Use: "create", Short: "Make a join token and print it", Args: cobra.NoArgs,
		RunE: admin(func(ctx context.Context, a *cluster.Admin) error {
			token, err := a.CreateToken(ctx, pki.Role(role), ttl, description)
			if err == nil {
				fmt.Println(token)
			}
			return err
		})}
	create.Flags().StringVar(&role, "role", "worker", "master or worker")
	create.Flags().DurationVar(&ttl, "ttl", 24*time.Hour, "how long it can be used; 0 is forever")
	create.Flags().StringVar(&description, "description", "", "what it is for")
	list := &cobra.Command{Use: "list", Short: "List join tokens (never their secrets)", Args: cobra.NoArgs,
		RunE: admin(func(ctx context.Context, a *cluster.Admin) error {
			tokens, err := a.Tokens(ctx)
			if err != nil {
				return err
			}
			if output == "json" {
				return printJSON(tokens)
			}
			w := tabwriter.NewWriter(os.Stdout, 0, 4, 3, ' ', 0)
			fmt.Fprintln(w, "ID\tROLE\tEXPIRES\tDESCRIPTION")
			for _, t := range tokens {
				expires := "never"
				if !t.ExpiresAt.IsZero() {
					expires = t.ExpiresAt.Format(time.RFC3339)
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", t.ID, t.Role, expires, t.Description)
			}
			return w.Flush()
		})}
	list.Flags().StringVarP(&output, "output", "o", "", "json")
	revoke := &cobra.Command{Use: "revoke ID", Short: "Revoke a join token", Args: cobra.ExactArgs(1)}
	revoke.RunE = func(cmd *cobra.Command, args []string) error {
		return admin(func(ctx context.Context, a *cluster.Admin) error { return a.RevokeToken(ctx, args[0]) })(cmd, args)
	}
	cmd.AddCommand(create, list, revoke)
	return cmd
}

// imageCommand imports images through the API into the nodes' own stores.
func imageCommand() *cobra.Command {
	var kubeconfig string
	cmd := &cobra.Command{Use: "image", Short: "Bring images to the cluster's nodes"}
	load := &cobra.Command{Use: "import FILE.tar", Short: "Import an OCI or Docker archive into every node (for machines with no registry)", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return importImages(cmd.Context(), kubeconfig, args[0]) }}
	load.Flags().StringVar(&kubeconfig, "kubeconfig", "", "the cluster's kubeconfig (default: this machine's cluster)")
	cmd.AddCommand(load)
	return cmd
}

func importImages(ctx context.Context, kubeconfig, path string) error {
	config, err := adminConfig(kubeconfig)
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
	for _, node := range nodes.Items {
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		begin := time.Now()
		answer, err := set.CoreV1().RESTClient().Post().Resource("nodes").Name(node.Name).SubResource("proxy").Suffix("kontiki/images").
			SetHeader("Content-Type", "application/x-tar").Body(file).DoRaw(ctx)
		file.Close()
		if err != nil {
			return fmt.Errorf("import into %s: %w", node.Name, err)
		}
		fmt.Printf("%s: %s (%.1f s)\n", node.Name, answer, time.Since(begin).Seconds())
	}
	return nil
}
