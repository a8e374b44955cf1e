package admin

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

	"github.com/kontiki/kontiki/cmd/kontiki/cis"
)

func cisCommand() *cobra.Command {
	var kubeconfig, output, agentDir, config string
	var all bool
	cmd := &cobra.Command{
		Use:   "cis",
		Short: "Answer the CIS Kubernetes Benchmark for this cluster and host; exits with 2 if something fails",
		Long: "Answer the recommendations of the " + cis.Benchmark + " by their ids: pass, fail, not applicable and why, or manual. It reads the flags of\n" +
			"the master that answers, the workers' configuration, objects of the cluster, and the files of the host that it runs on: run it as root on each\n" +
			"host. It exits with 2 if something fails, and with 1 if it could not look.",
		Example: "  kontiki cis\n  kontiki cis --all\n  kontiki cis -o json",
		Args:    cobra.NoArgs,
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if output != "" && output != "json" && output != "yaml" {
			return fmt.Errorf("--output: %q is neither json nor yaml", output)
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Minute)
		defer cancel()
		report, err := askCIS(ctx, kubeconfig, agentDir, config)
		if err != nil {
			return err
		}
		switch output {
		case "json":
			err = PrintJSON(report)
		case "yaml":
			var data []byte
			if data, err = yaml.Marshal(report); err == nil {
				_, err = os.Stdout.Write(data)
			}
		default:
			err = report.Print(os.Stdout, all)
		}
		if err == nil && report.Summary[cis.Fail] > 0 {
			err = ExitCode(2)
		}
		return err
	}
	l := cmd.Flags()
	l.StringVar(&kubeconfig, "kubeconfig", "", "the cluster's kubeconfig (default: this machine's cluster)")
	l.StringVarP(&output, "output", "o", "", "json or yaml")
	l.BoolVar(&all, "all", false, "print also what passes and what does not apply")
	l.StringVar(&agentDir, "agent-dir", "", "the directory of the worker's data on this host (default: agent, beside the master's)")
	l.StringVar(&config, "config", "/etc/kontiki/config.yaml", "the configuration file on this host")
	return cmd
}

func askCIS(ctx context.Context, kubeconfig, agentDir, config string) (*cis.Report, error) {
	rest, err := Config(kubeconfig)
	if err != nil {
		return nil, err
	}
	set, err := kubernetes.NewForConfig(rest)
	if err != nil {
		return nil, err
	}
	c, err := newClient(kubeconfig)
	if err != nil {
		return nil, err
	}
	facts := &cis.Facts{
		Client: set, AgentDir: agentDir, Config: config,
		Configz: func(ctx context.Context, node string) ([]byte, error) {
			return set.CoreV1().RESTClient().Get().Resource("nodes").Name(node).SubResource("proxy").Suffix("configz").DoRaw(ctx)
		},
		Weak: func(ctx context.Context) (string, error) { return weakHandshake(ctx, rest.Host) },
	}
	if facts.Host, err = os.Hostname(); err != nil {
		return nil, err
	}
	for _, dir := range []string{"/etc/systemd/system", "/usr/lib/systemd/system", "/usr/local/lib/systemd/system"} {
		for _, unit := range []string{"kontiki-server", "kontiki-master", "kontiki-agent"} {
			facts.Units = append(facts.Units, filepath.Join(dir, unit+".service"))
		}
	}
	var said FlagsAnswer
	if err := c.call(ctx, http.MethodGet, ClusterPath+"/flags", nil, &said); err != nil {
		return nil, fmt.Errorf("flags of the master: %w", err)
	}
	facts.Master, facts.Flags = said.Master, said.Flags
	if dir := said.Flags["data-dir"]; agentDir == "" && dir != "" {
		facts.AgentDir = filepath.Join(filepath.Dir(dir), "agent")
	}
	return cis.Answer(ctx, facts)
}

// weakHandshake tries handshakes with the API that a server should refuse, and returns what it agreed to.
func weakHandshake(ctx context.Context, host string) (string, error) {
	u, err := url.Parse(host)
	if err != nil || u.Host == "" {
		return "", fmt.Errorf("%q is no URL", host)
	}
	address := u.Host
	if u.Port() == "" {
		address = net.JoinHostPort(u.Hostname(), "443")
	}
	var weak []uint16
	for _, suite := range tls.InsecureCipherSuites() {
		weak = append(weak, suite.ID)
	}
	for _, try := range []struct {
		what   string
		config *tls.Config
	}{
		{"TLS 1.1", &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}},
		{"a cipher suite that is not secure", &tls.Config{MinVersion: tls.VersionTLS12, MaxVersion: tls.VersionTLS12, CipherSuites: weak}},
	} {
		try.config.InsecureSkipVerify = true // nothing is sent, and nothing read
		conn, err := (&tls.Dialer{Config: try.config}).DialContext(ctx, "tcp", address)
		if err == nil {
			conn.Close()
			return try.what, nil
		}
		// A server refuses by an alert; anything else says nothing about it.
		var alert tls.AlertError
		var refused *net.OpError
		if !errors.As(err, &alert) && !(errors.As(err, &refused) && refused.Op == "remote error") {
			return "", err
		}
	}
	return "", nil
}
