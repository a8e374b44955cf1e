package admin

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/kontiki/kontiki/cluster"
)

// certsCommand shows and changes the cluster's certificates and keys, through the API.
func certsCommand(f *flags) *cobra.Command {
	run := func(do func(ctx context.Context, c *client, args []string) error) func(*cobra.Command, []string) error {
		return f.run(time.Minute, do)
	}
	cmd := &cobra.Command{Use: "certs", Short: "Show and change certificates and keys", Args: cobra.NoArgs,
		RunE: run(func(ctx context.Context, c *client, _ []string) error {
			var all cluster.Certificates
			if err := c.call(ctx, http.MethodGet, CertsPath, nil, &all); err != nil || c.json {
				return err
			}
			return printCerts(os.Stdout, &all)
		})}
	change := func(use, short, done string, args cobra.PositionalArgs, make func(args []string) CertsChange) *cobra.Command {
		return &cobra.Command{Use: use, Short: short, Args: args,
			RunE: run(func(ctx context.Context, c *client, args []string) error {
				var changed CertsChanged
				if err := c.call(ctx, http.MethodPost, CertsPath, make(args), &changed); err != nil || c.json {
					return err
				}
				fmt.Println(done)
				return nil
			})}
	}
	named := func(action string) func([]string) CertsChange {
		return func([]string) CertsChange { return CertsChange{Action: action} }
	}
	var finish, force bool
	rotateCA := change("rotate-ca", "Make a new CA; with --finish, drop the old one", "done; see `kontiki cluster certs`", cobra.NoArgs, func([]string) CertsChange {
		if finish {
			return CertsChange{Action: "finish-ca", Force: force}
		}
		return CertsChange{Action: "rotate-ca"}
	})
	rotateCA.Long = "Make a new CA. It issues certificates once every master and every connected worker trusts it; both CAs are trusted until --finish."
	rotateCA.Flags().BoolVar(&finish, "finish", false, "drop the old CA; refused while a host still needs it")
	rotateCA.Flags().BoolVar(&force, "force", false, "with --finish: proceed without workers that still need the old CA; they must join again")
	var finishTokens bool
	rotateTokens := change("rotate-token-key", "Change the key that signs service account tokens; with --finish, invalidate the tokens of the old one", "done; see `kontiki cluster certs`", cobra.NoArgs,
		func([]string) CertsChange {
			if finishTokens {
				return CertsChange{Action: "finish-token-key"}
			}
			return CertsChange{Action: "rotate-token-key"}
		})
	rotateTokens.Long = "Change the key that signs service account tokens. Tokens that the old key signed are valid until --finish: give pods an hour to get new ones."
	rotateTokens.Flags().BoolVar(&finishTokens, "finish", false, "invalidate the tokens that the old key signed")
	cmd.AddCommand(
		rotateTokens,
		change("renew", "Renew every certificate now", "every master and connected worker renews its certificates", cobra.NoArgs, named("renew")),
		rotateCA,
		change("rotate-gossip-key", "Change the key that encrypts gossip", "the new key is being spread; see `kontiki cluster certs`", cobra.NoArgs, named("rotate-gossip-key")),
		change("rotate-secret-key", "Change the key that encrypts Secrets", "Secrets are encrypted with a new key as soon as every master has it; earlier ones can still be decrypted", cobra.NoArgs, named("rotate-secret-key")),
		change("revoke WORKER", "Refuse the present certificates of a worker, for example after one was stolen", "revoked; the host can join again with a token, once its identity is removed",
			cobra.ExactArgs(1), func(args []string) CertsChange { return CertsChange{Action: RevokeAction, Worker: args[0]} }),
	)
	return cmd
}

func shortPin(pin string) string { return pin[:min(len(pin), 12)] }

func printCerts(out io.Writer, all *cluster.Certificates) error {
	day := func(t time.Time) string {
		if t.IsZero() {
			return "-"
		}
		return t.UTC().Format("2006-01-02 15:04:05")
	}
	fmt.Fprintf(out, "Cluster %s: identity generation %d, gossip among %s\n", all.ClusterID, all.Generation, all.Gossip)
	for _, r := range all.Rotations {
		fmt.Fprintf(out, "Under way: %s\n", r)
	}
	for _, worker := range slices.Sorted(maps.Keys(all.Revoked)) {
		fmt.Fprintf(out, "Revoked: certificates of the worker %s from before %s\n", worker, day(all.Revoked[worker]))
	}
	w := tabwriter.NewWriter(out, 0, 4, 3, ' ', 0)
	fmt.Fprintln(w, "\nMASTER\tCERTIFICATE\tCA\tVALID UNTIL (UTC)\tRENEWED AT")
	for _, m := range all.Masters {
		if !m.Reachable {
			fmt.Fprintf(w, "%s\t(does not answer)\t\t\t\n", m.Name)
		}
		for _, ca := range m.CAs {
			fmt.Fprintf(w, "%s\tCA, %s\t%s\t%s\t-\n", m.Name, ca.Role, shortPin(ca.Pin), day(ca.NotAfter))
		}
		for _, c := range m.Certificates {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", m.Name, c.Use, shortPin(c.Issuer), day(c.NotAfter), day(c.RenewAt))
		}
	}
	fmt.Fprintln(w, "\nWORKER\tFOLLOWS\tCA\tVALID UNTIL (UTC)\tGENERATION")
	for _, c := range all.Workers {
		master := c.Master
		if master == "" {
			master = "(not connected)"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\n", c.Name, master, shortPin(c.Issuer), day(c.NotAfter), c.Generation)
	}
	return w.Flush()
}
