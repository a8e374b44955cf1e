package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/kontiki/kontiki/cluster"
	"github.com/kontiki/kontiki/cmd/kontiki/upgrade"
)

// upgradeFlags are the flags of kontiki cluster upgrade.
type upgradeFlags struct {
	program, pack, each, version string
	ssh                          upgrade.SSH
	patience                     time.Duration
	interruption, dryRun         bool
}

func upgradeCommand(f *flags) *cobra.Command {
	var u upgradeFlags
	cmd := &cobra.Command{
		Use:   "upgrade (--program FILE | --package FILE --to VERSION | --each COMMAND --to VERSION)",
		Short: "Replace the program of all hosts, one after the other; stops at the first that does not come back well",
		Long: "Replace the program of all hosts, one after the other: masters first, the leader last of them, then workers. Before each, the cluster must have no\n" +
			"problems; after it, the host must be back with the new version, its log, ready, and with its pods as before. If it is not, nothing else is\n" +
			"touched, and the command exits with 1. The same command again goes on with the hosts that are left.\n\n" +
			"Hosts are reached with this machine's ssh, or by a command of your own (--each), which finds KONTIKI_HOST, KONTIKI_ADDRESS, KONTIKI_ROLE\n" +
			"(master, master+worker, worker) and KONTIKI_VERSION in its environment.",
		Example: "  kontiki cluster upgrade --program ./kontiki --dry-run\n" +
			"  kontiki cluster upgrade --program ./kontiki\n" +
			"  kontiki cluster upgrade --package ./kontiki.deb --to v1.37.2+kontiki.0.2 --ssh-user admin\n" +
			"  kontiki cluster upgrade --each ./upgrade-one-host.sh --to v1.37.2+kontiki.0.2",
		Args: cobra.NoArgs,
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		o, err := u.options(cmd.Context())
		if err != nil {
			return err
		}
		if f.output != "" && !u.dryRun {
			return errors.New("--output: only the plan, of --dry-run, has it")
		}
		config, err := Config(f.kubeconfig)
		if err != nil {
			return err
		}
		set, err := kubernetes.NewForConfig(config)
		if err != nil {
			return err
		}
		return f.run(24*time.Hour, func(ctx context.Context, c *client, _ []string) error {
			asked := *c
			asked.json = false
			o.Cluster = upgradedCluster{&asked, set}
			if u.dryRun {
				return printPlan(ctx, os.Stdout, o, c.json)
			}
			return upgrade.Run(ctx, o)
		})(cmd, nil)
	}
	l := cmd.Flags()
	l.StringVar(&u.program, "program", "", "the new program: it is copied to each host by ssh, takes the place of the old one, which is kept as PATH.previous, and the service is restarted")
	l.StringVar(&u.pack, "package", "", "a Debian package with the new program, which is installed on each host by ssh")
	l.StringVar(&u.each, "each", "", "a command of your own, which a shell on this machine runs for each host, and which replaces its program")
	l.StringVar(&u.version, "to", "", "the version that hosts run then (default: what --program says of itself)")
	l.StringVar(&u.ssh.Command, "ssh", "ssh", "ssh, with options")
	l.StringVar(&u.ssh.User, "ssh-user", "root", "whom ssh signs in as")
	l.StringVar(&u.ssh.Path, "path", "/usr/bin/kontiki", "where the program is on the hosts")
	l.DurationVar(&u.patience, "wait", 5*time.Minute, "how long a host may take to come back")
	l.BoolVar(&u.interruption, "allow-interruption", false, "accept that the API is away while a master restarts: with one or two masters, none of which may be missing")
	l.BoolVar(&u.dryRun, "dry-run", false, "only show the plan; exits with 2 if something is in the way")
	return cmd
}

// options checks the flags.
func (u *upgradeFlags) options(ctx context.Context) (o upgrade.Options, err error) {
	ways := 0
	for _, way := range []string{u.program, u.pack, u.each} {
		if way != "" {
			ways++
		}
	}
	if ways != 1 {
		return o, errors.New("want one of --program, --package and --each")
	}
	if u.patience <= 0 {
		return o, fmt.Errorf("--wait: %v is not a time that a host can come back in", u.patience)
	}
	if u.version == "" && u.program != "" {
		path, err := filepath.Abs(u.program)
		if err != nil {
			return o, err
		}
		if u.version, err = upgrade.VersionOf(ctx, path); err != nil {
			return o, fmt.Errorf("--program: %w; if it is for other machines than this one, name its version with --to", err)
		}
	}
	if u.version == "" {
		return o, errors.New("--to: name the version that hosts run then, as `kontiki --version` of the new program says it")
	}
	u.ssh.Version, u.ssh.File, u.ssh.Package = u.version, u.program, u.pack != ""
	if u.pack != "" {
		u.ssh.File = u.pack
	}
	o = upgrade.Options{Version: u.version, Replace: u.ssh.Replace, Patience: u.patience, AllowInterruption: u.interruption, Out: os.Stdout}
	if u.each != "" {
		o.Replace = upgrade.Each(u.each, u.version)
	} else if _, err := os.Stat(u.ssh.File); err != nil {
		return o, err
	}
	return o, nil
}

func printPlan(ctx context.Context, out io.Writer, o upgrade.Options, asJSON bool) error {
	hosts, problems, err := upgrade.Plan(ctx, o)
	if err != nil {
		return err
	}
	if asJSON {
		if hosts == nil {
			hosts = []upgrade.Host{}
		}
		if err := PrintJSON(map[string]any{"version": o.Version, "hosts": hosts, "problems": append([]string{}, problems...)}); err != nil {
			return err
		}
	} else if len(hosts) == 0 {
		fmt.Fprintf(out, "All hosts run %s already.\n", o.Version)
	} else {
		w := tabwriter.NewWriter(out, 0, 4, 3, ' ', 0)
		fmt.Fprintln(w, "\tHOST\tROLE\tADDRESS\tRUNS\tTHEN")
		for i, h := range hosts {
			role := string(h.Role)
			if h.Leads {
				role += " (leads)"
			}
			fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\n", i+1, h.Name, role, h.Address, orDash(h.Version), o.Version)
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
	if len(problems) > 0 && !asJSON {
		fmt.Fprintln(os.Stderr, "it would not begin:")
	}
	return showProblems(problems)
}

// upgradedCluster is the cluster of a kubeconfig.
type upgradedCluster struct {
	c   *client
	set kubernetes.Interface
}

// Status implements upgrade.Cluster.
func (u upgradedCluster) Status(ctx context.Context) (*cluster.Status, error) {
	var s cluster.Status
	return &s, u.c.call(ctx, http.MethodGet, ClusterPath, nil, &s)
}

// Transfer implements upgrade.Cluster.
func (u upgradedCluster) Transfer(ctx context.Context, to string) error {
	var answer TransferAnswer
	return u.c.call(ctx, http.MethodPost, ClusterPath+"/transfer", TransferRequest{to}, &answer)
}

// Nodes implements upgrade.Cluster.
func (u upgradedCluster) Nodes(ctx context.Context) ([]corev1.Node, error) {
	list, err := u.set.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	return list.Items, nil
}

// Pods implements upgrade.Cluster.
func (u upgradedCluster) Pods(ctx context.Context, node string) ([]corev1.Pod, error) {
	list, err := u.set.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + node})
	if err != nil {
		return nil, err
	}
	return list.Items, nil
}
