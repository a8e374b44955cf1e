package admin

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/kontiki/kontiki/cluster"
	"github.com/kontiki/kontiki/cmd/kontiki/bundle"
	"github.com/kontiki/kontiki/cmd/kontiki/dev"
)

func debugCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "debug", Short: "Collect what is needed to find out what is wrong with a cluster"}
	cmd.AddCommand(bundleCommand())
	return cmd
}

func bundleCommand() *cobra.Command {
	var kubeconfig string
	var logs []string
	var profile time.Duration
	cmd := &cobra.Command{
		Use:   "bundle [FILE.tar.gz]",
		Short: "Write the cluster's state, logs, profiles and timings into one archive, without secrets",
		Long: "Write the cluster's state, logs, profiles and timings into one archive, to find out what is wrong or to have others look.\n\n" +
			"It has no content of Secrets and ConfigMaps, no environment, commands and arguments of containers, no headers of probes, no annotations but\n" +
			"Kubernetes' own, and no logs of pods. Names of objects, images, addresses and the messages of events are in it: look before you publish it.\n" +
			"What could not be had is listed in its failures.txt. Masters that cannot be reached from here are left out; run it on a master's host then.",
		Example: "  kontiki debug bundle\n  kontiki debug bundle /tmp/bundle.tar.gz --logs /var/log/kontiki.log",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if profile < time.Second || profile > time.Minute {
				return fmt.Errorf("--profile: %s is not between 1s and 1m", profile)
			}
			o := bundle.Options{Profile: profile, Logs: logs, Now: time.Now, Documents: map[string]any{}}
			var err error
			if o.Config, err = Config(kubeconfig); err != nil {
				return err
			}
			if len(o.Logs) == 0 {
				dir := dev.DefaultDir
				if file := cmp.Or(kubeconfig, os.Getenv("KUBECONFIG")); file != "" {
					dir = filepath.Dir(file)
				}
				o.Logs, _ = filepath.Glob(filepath.Join(dir, "logs", "*.log")) // the pattern is well formed
			}
			c, err := newClient(kubeconfig)
			if err != nil {
				return err
			}
			if err := describe(cmd.Context(), c, &o); err != nil {
				return err
			}
			path := "kontiki-debug-" + time.Now().UTC().Format("20060102T150405Z") + ".tar.gz"
			if len(args) > 0 {
				path = args[0]
			}
			if err := bundle.Write(cmd.Context(), path, o, func(part string) { fmt.Fprintln(os.Stderr, "collecting", part) }); err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), path)
			return err
		},
	}
	cmd.Flags().StringVar(&kubeconfig, "kubeconfig", "", "the cluster's kubeconfig (default: this machine's cluster)")
	cmd.Flags().StringSliceVar(&logs, "logs", nil, "log files of this machine to put in (default: those of a development cluster)")
	cmd.Flags().DurationVar(&profile, "profile", 5*time.Second, "how long the use of processors is recorded on each master")
	return cmd
}

// describe adds what the masters say about themselves and each other.
func describe(ctx context.Context, c *client, o *bundle.Options) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var status cluster.Status
	if err := c.call(ctx, http.MethodGet, ClusterPath, nil, &status); err != nil {
		return err
	}
	var members map[string]any
	if err := c.call(ctx, http.MethodGet, ClusterPath+"/members", nil, &members); err != nil {
		return err
	}
	o.Documents["cluster.json"], o.Documents["members.json"] = status, members
	for _, m := range status.Members {
		if m.APIAddress != "" {
			o.Masters = append(o.Masters, bundle.Master{Name: m.Name, Address: m.APIAddress})
		}
	}
	return nil
}
