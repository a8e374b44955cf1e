package admin

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/kontiki/kontiki/cluster"
	"github.com/kontiki/kontiki/cluster/gossip"
)

// limit is the time limit for administrative commands that should be short.
const limit = 30 * time.Second

func clusterCommand() *cobra.Command {
	var f flags
	cmd := &cobra.Command{Use: "cluster", Short: "Administer the cluster's masters"}
	f.add(cmd)
	sub := func(use, short string, args cobra.PositionalArgs, run func(ctx context.Context, c *client, args []string) error) *cobra.Command {
		one := &cobra.Command{Use: use, Short: short, Args: args, RunE: f.run(limit, run)}
		cmd.AddCommand(one)
		return one
	}
	masters := completion(func(ctx context.Context) ([]string, error) { return masterNames(ctx, f.kubeconfig) })
	sub("status", "Show the masters, their roles and health; exits with 2 when the cluster is degraded", cobra.NoArgs, clusterStatus)
	sub("members", "List all hosts, masters and workers, as gossip sees them", cobra.NoArgs, clusterMembers)
	sub("transfer [MASTER]", "Hand leadership over to a master, or to any", cobra.MaximumNArgs(1), transferLeadership).ValidArgsFunction = masters
	sub("remove MASTER", "Remove a master for good, dead or alive; it can join again with an empty data directory and a token", cobra.ExactArgs(1), removeMaster).ValidArgsFunction = masters
	cmd.AddCommand(upgradeCommand(&f), recoverCommand(), certsCommand(&f))
	return cmd
}

func clusterStatus(ctx context.Context, c *client, _ []string) error {
	var s cluster.Status
	if err := c.call(ctx, http.MethodGet, ClusterPath, nil, &s); err != nil {
		return err
	}
	if !c.json {
		if err := printStatus(os.Stdout, &s); err != nil {
			return err
		}
	}
	if len(s.Problems) > 0 {
		fmt.Fprintln(os.Stderr, "the cluster is degraded:")
	}
	return showProblems(s.Problems)
}

// showProblems writes problems to standard error, and returns the exit code for them, nil if there are none.
func showProblems(problems []string) error {
	if len(problems) == 0 {
		return nil
	}
	for _, problem := range problems {
		fmt.Fprintln(os.Stderr, "  -", problem)
	}
	return ExitCode(2)
}

func printStatus(out io.Writer, s *cluster.Status) error {
	leader := s.Leader
	if leader == "" {
		leader = "none"
	}
	fmt.Fprintf(out, "Cluster %s: leader %s, term %d, revision %d, epoch %d, feature level %d\n", s.ClusterID, leader, s.Term, s.Revision, s.Epoch, s.FeatureLevel)
	switch {
	case s.FailuresTolerated < 0 && electing(s.Members):
		fmt.Fprint(out, "Writes wait: the masters elect a leader, which takes a second or two.\n\n")
	case s.FailuresTolerated < 0:
		fmt.Fprint(out, "Writes have stopped: too few masters are healthy.\n\n")
	case s.FailuresTolerated == 1:
		fmt.Fprint(out, "1 more master may fail before writes stop.\n\n")
	default:
		fmt.Fprintf(out, "%d more masters may fail before writes stop.\n\n", s.FailuresTolerated)
	}
	if len(s.Behind) > 0 {
		fmt.Fprintf(out, "The feature level rises once these masters are upgraded: %s.\n\n", strings.Join(s.Behind, ", "))
	}
	w := tabwriter.NewWriter(out, 0, 4, 3, ' ', 0)
	fmt.Fprintln(w, "NAME\tROLE\tADDRESS\tHEALTH\tGOSSIP\tLAST CONTACT\tROUND TRIP\tLOG\tAPPLIED\tDISK WRITE\tDISK FREE\tCERTIFICATE\tVERSION")
	for _, m := range s.Members {
		certificate := "-"
		if !m.CertificateExpires.IsZero() {
			certificate = m.CertificateExpires.Format(time.DateOnly)
		}
		free := "-"
		if m.DiskTotal > 0 {
			free = fmt.Sprintf("%d%%", 100*m.DiskFree/m.DiskTotal)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%d\t%s\t%s\t%s\t%s\n", m.Name, m.Role, m.Address, m.Health, m.Gossip, m.LastContact,
			orDash(m.RoundTrip), m.LastIndex, m.AppliedIndex, orDash(m.DiskWrite), free, certificate, orDash(m.Version))
	}
	return w.Flush()
}

// electing says whether enough masters answer to elect a leader, and lack nothing else.
func electing(members []cluster.MemberStatus) bool {
	voters, able := 0, 0
	for _, m := range members {
		if m.Role == cluster.StatusNonvoter {
			continue
		}
		voters++
		if m.Health == cluster.HealthOK || m.Health == cluster.HealthNoLeader {
			able++
		}
	}
	return able > voters/2
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

func clusterMembers(ctx context.Context, c *client, _ []string) error {
	var answer struct{ Members []gossip.Member }
	if err := c.call(ctx, http.MethodGet, ClusterPath+"/members", nil, &answer); err != nil || c.json {
		return err
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 4, 3, ' ', 0)
	fmt.Fprintln(w, "NAME\tROLE\tSTATE\tSINCE\tADDRESS\tGOSSIP ADDRESS\tVERSION")
	for _, m := range answer.Members {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", m.Name, m.Role, m.State, m.Since.UTC().Format(time.RFC3339), m.Address, m.Gossip, orDash(m.Version))
	}
	return w.Flush()
}

func transferLeadership(ctx context.Context, c *client, args []string) error {
	var to string
	if len(args) > 0 {
		to = args[0]
	}
	var answer TransferAnswer
	if err := c.call(ctx, http.MethodPost, ClusterPath+"/transfer", TransferRequest{to}, &answer); err != nil || c.json {
		return err
	}
	fmt.Printf("%s leads the cluster\n", answer.Leader)
	return nil
}

func removeMaster(ctx context.Context, c *client, args []string) error {
	var answer struct{ Removed string }
	if err := c.call(ctx, http.MethodDelete, ClusterPath+"/members/"+url.PathEscape(args[0]), nil, &answer); err != nil || c.json {
		return err
	}
	fmt.Printf("master %s was removed\n", answer.Removed)
	return nil
}

// recoverCommand works with a stopped master's data.
func recoverCommand() *cobra.Command {
	var dir string
	var yes bool
	cmd := &cobra.Command{Use: "recover", Short: "Continue with this stopped master alone, after a quorum of masters is lost for good", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
			plan, err := cluster.PlanRecovery(dir, log)
			if err != nil {
				return err
			}
			printRecovery(os.Stdout, plan)
			if !yes {
				fmt.Fprintln(os.Stderr, "Nothing was changed. To carry it out, run this again with --yes.")
				return ExitCode(1)
			}
			if _, err := cluster.Recover(dir, log); err != nil {
				return err
			}
			fmt.Printf("Done. Start master %s as before; let new masters join it with a token (kontiki token create --role master).\n", plan.Name)
			return nil
		}}
	cmd.Flags().StringVar(&dir, "data-dir", DefaultServerDir, "the stopped master's data")
	cmd.Flags().BoolVar(&yes, "yes", false, "carry it out")
	return cmd
}

func printRecovery(out io.Writer, plan *cluster.Recovery) {
	fmt.Fprintf(out, "Master %s becomes the only master of its cluster, with its log up to index %d.\n", plan.Name, plan.LastIndex)
	fmt.Fprintln(out, "WARNING: writes that other masters acknowledged and that this one had not received are lost for good.")
	fmt.Fprintln(out, "         Writes that it received are kept, even if they were never acknowledged.")
	if len(plan.Left) == 0 {
		return
	}
	fmt.Fprintln(out, "These masters are excluded. Do not start them, and remove their data before they join again:")
	for _, s := range plan.Left {
		fmt.Fprintf(out, "  %s at %s\n", s.ID, s.Address)
	}
}
