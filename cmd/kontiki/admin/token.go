package admin

import (
	"context"
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/kontiki/kontiki/cluster"
	"github.com/kontiki/kontiki/cluster/pki"
)

// tokenCommand works on a master's host, with that master's data.
func tokenCommand() *cobra.Command {
	var dir, role, description, output string
	var ttl time.Duration
	cmd := &cobra.Command{Use: "token", Short: "Manage join tokens, on a master's host"}
	cmd.PersistentFlags().StringVar(&dir, "data-dir", DefaultServerDir, "the master's data")
	cmd.PersistentFlags().StringVarP(&output, "output", "o", "", "json")
	admin := func(run func(ctx context.Context, a *cluster.Admin) error) func(*cobra.Command, []string) error {
		return func(cmd *cobra.Command, _ []string) error {
			if output != "" && output != "json" {
				return fmt.Errorf("--output: %q is not json", output)
			}
			if err := enterHost(dir); err != nil {
				return err
			}
			a, err := cluster.DialAdmin(dir)
			if err != nil {
				return err
			}
			defer a.Close()
			return run(cmd.Context(), a)
		}
	}
	create := &cobra.Command{Use: "create", Short: "Create a join token and print it", Args: cobra.NoArgs,
		RunE: admin(func(ctx context.Context, a *cluster.Admin) error {
			token, err := a.CreateToken(ctx, pki.Role(role), ttl, description)
			if err != nil {
				return err
			}
			if output == "json" {
				return PrintJSON(map[string]string{"token": token})
			}
			fmt.Println(token)
			return nil
		})}
	create.Flags().StringVar(&role, "role", "worker", "master or worker")
	create.Flags().DurationVar(&ttl, "ttl", 24*time.Hour, "how long it can be used; 0 means forever")
	create.Flags().StringVar(&description, "description", "", "what it is for")
	list := &cobra.Command{Use: "list", Short: "List join tokens (never their secrets)", Args: cobra.NoArgs,
		RunE: admin(func(ctx context.Context, a *cluster.Admin) error {
			tokens, err := a.Tokens(ctx)
			if err != nil {
				return err
			}
			if output == "json" {
				return PrintJSON(tokens)
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
	revoke := &cobra.Command{Use: "revoke ID", Short: "Revoke a join token, given by its id or the whole token", Args: cobra.ExactArgs(1)}
	revoke.RunE = func(cmd *cobra.Command, args []string) error {
		return admin(func(ctx context.Context, a *cluster.Admin) error {
			if err := a.RevokeToken(ctx, args[0]); err != nil {
				return err
			}
			if output == "json" {
				return PrintJSON(map[string]string{"revoked": args[0]})
			}
			fmt.Println("revoked", args[0])
			return nil
		})(cmd, args)
	}
	cmd.AddCommand(create, list, revoke)
	return cmd
}
