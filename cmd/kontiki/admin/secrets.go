package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"text/tabwriter"
	"time"

	"github.com/kontiki/kontiki/cluster"
	"github.com/kontiki/kontiki/internal/pause"
	"github.com/spf13/cobra"
)

// rotationLimit is how long `kontiki secrets` waits for a rotation; it continues without the command.
const rotationLimit = time.Hour

// secretsCommand administers the keys of Secrets, through the API.
func secretsCommand() *cobra.Command {
	var f flags
	cmd := &cobra.Command{Use: "secrets", Short: "Show and rotate the keys that encrypt Secrets"}
	f.add(cmd)
	status := &cobra.Command{Use: "status", Short: "Show the keys, what each is needed for, and the progress of a rotation; exits with 2 if there are problems", Args: cobra.NoArgs,
		RunE: f.run(limit, secretsStatus)}
	var o rotateOptions
	rotate := &cobra.Command{Use: "rotate", Short: "Make a new key and encrypt every Secret with it, while the cluster works", Args: cobra.NoArgs,
		Long: `Make a new key, and encrypt every Secret with it while the cluster works.

The cluster does this by itself, also if this command ends or the leader changes. Secrets keep their resourceVersion, and nobody who watches
them is told. The old key is dropped when nothing needs it any more: no Secret, no client that resumes a watch from before, and no snapshot that
a master has taken by itself. --finish drops it without waiting for clients and snapshots.`,
		RunE: f.run(rotationLimit, func(ctx context.Context, c *client, _ []string) error { return rotateSecrets(ctx, c, o) })}
	rotate.Flags().BoolVar(&o.finish, "finish", false, "drop old keys now; snapshots from before the rotation can then only be restored with an identity.json of that time")
	rotate.Flags().BoolVar(&o.wait, "wait", true, "wait until every Secret is encrypted with the new key, or with --finish until the old keys are dropped")
	rotate.Flags().BoolVar(&o.withoutKMS, "without-kms", false, "make a key of the cluster's own, although a KMS plugin is configured")
	rotate.MarkFlagsMutuallyExclusive("finish", "without-kms")
	cmd.AddCommand(rotate, status)
	return cmd
}

func secretsStatus(ctx context.Context, c *client, _ []string) error {
	var s cluster.SecretKeys
	if err := c.call(ctx, http.MethodGet, SecretsPath, nil, &s); err != nil {
		return err
	}
	if !c.json {
		if err := printSecretKeys(os.Stdout, &s); err != nil {
			return err
		}
	}
	return showProblems(s.Problems)
}

func printSecretKeys(out io.Writer, s *cluster.SecretKeys) error {
	fmt.Fprintf(out, "%d of %d objects are encrypted with the present key.\n", s.Objects-s.Stale, s.Objects)
	if s.Next != "" {
		fmt.Fprintf(out, "The key %s is used once every master has it.\n", s.Next)
	}
	w := tabwriter.NewWriter(out, 0, 4, 3, ' ', 0)
	fmt.Fprintln(w, "\nKEY\tUSE\tKMS PROVIDER\tOBJECTS\tKEPT FOR")
	for _, k := range s.Keys {
		use, kept := "decrypts", orDash(k.Waiting)
		switch k.Name {
		case s.Current:
			use = "encrypts"
		case s.Next:
			use = "next"
		default:
			if k.Waiting == "" {
				kept = "(a moment)"
			}
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\n", k.Name, use, orDash(k.Provider), k.Objects, kept)
	}
	return w.Flush()
}

// secretsPoll is how often the command asks for the progress.
const secretsPoll = 200 * time.Millisecond

type rotateOptions struct{ finish, withoutKMS, wait bool }

func rotateSecrets(ctx context.Context, c *client, o rotateOptions) error {
	asJSON := c.json
	c.json = asJSON && !o.wait
	action := "rotate"
	switch {
	case o.finish:
		action = "finish"
	case o.withoutKMS:
		action = "rotate-without-kms"
	}
	var before cluster.SecretKeys
	var changed CertsChanged
	quiet := *c
	quiet.json = false
	if err := quiet.call(ctx, http.MethodGet, SecretsPath, nil, &before); err != nil {
		return err
	}
	if err := c.call(ctx, http.MethodPost, SecretsPath, SecretsChange{action}, &changed); err != nil || !o.wait {
		return err
	}
	shown := ""
	for {
		var s cluster.SecretKeys
		err := quiet.call(ctx, http.MethodGet, SecretsPath, nil, &s)
		if ctx.Err() != nil {
			return fmt.Errorf("the rotation continues without this command, see `kontiki secrets status`: %w", ctx.Err())
		}
		done, progress := err == nil && rotated(&before, &s, o.finish), ""
		switch {
		case err != nil:
			progress = err.Error() // another master may answer, or this one later
		case s.Next != "":
			progress = "waiting until every master has the new key"
		case o.finish:
			progress = fmt.Sprintf("%d keys", len(s.Keys))
		default:
			progress = fmt.Sprintf("%d of %d objects are encrypted with the key %s", s.Objects-s.Stale, s.Objects, s.Current)
		}
		if progress != shown && !asJSON {
			fmt.Println(progress)
			shown = progress
		}
		if !done {
			for _, problem := range s.Problems {
				if problem != shown && !asJSON {
					fmt.Fprintln(os.Stderr, "problem:", problem)
					shown = problem
				}
			}
			pause.For(ctx, secretsPoll)
			continue
		}
		if asJSON {
			return json.NewEncoder(os.Stdout).Encode(&s)
		}
		return printSecretKeys(os.Stdout, &s)
	}
}

// rotated says whether a rotation has come to the point for which the command waits.
func rotated(before, now *cluster.SecretKeys, finish bool) bool {
	if finish {
		for _, k := range now.Keys {
			if k.Name != now.Current && k.Name != now.Next && k.Waiting != "" {
				return false
			}
		}
		return now.Stale == 0 && now.Next == "" && len(now.Keys) < len(before.Keys)
	}
	return now.Current != before.Current && now.Next == "" && now.Stale == 0
}
