package admin

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/duration"
	"sigs.k8s.io/yaml"

	"github.com/kontiki/kontiki/api/advice"
	"github.com/kontiki/kontiki/api/rest"
)

func adviseCommand() *cobra.Command {
	var kubeconfig, namespace, output string
	var all bool
	cmd := &cobra.Command{
		Use:   "advise [NAME]",
		Short: "Say what requests would fit workloads, by what they used",
		Long: "Say what requests would fit the containers of workloads, by what they used of late: the 90th percentile of processor time, and the peaks of\n" +
			"memory, with 15 % more, as the Vertical Pod Autoscaler's recommender does it. NAME shows one workload. Masters keep what they saw in memory: SEEN\n" +
			"says for how long the answering one has seen the workload. The annotation kontiki.io/advice=apply makes the cluster change the requests of pods itself.",
		Example: "  kontiki advise -n shop\n  kontiki advise web -n shop -o yaml\n  kontiki advise -A",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch output {
			case "", "json", "yaml":
			default:
				return fmt.Errorf("--output: %q is neither json nor yaml", output)
			}
			if all && namespace != "" {
				return fmt.Errorf("--all-namespaces and --namespace exclude each other")
			}
			if _, err := configIn(kubeconfig, &namespace); err != nil {
				return err
			}
			if all {
				namespace = ""
			}
			c, err := newClient(kubeconfig)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), limit)
			defer cancel()
			var l advice.List
			if err := c.call(ctx, http.MethodGet, rest.AdvicePath+"?namespace="+url.QueryEscape(namespace), nil, &l); err != nil {
				return err
			}
			if len(args) > 0 {
				items := l.Items
				l.Items = []advice.Item{}
				for _, item := range items {
					if item.Name == args[0] {
						l.Items = append(l.Items, item)
					}
				}
			}
			switch output {
			case "json":
				return PrintJSON(&l)
			case "yaml":
				data, err := yaml.Marshal(&l)
				if err == nil {
					_, err = os.Stdout.Write(data)
				}
				return err
			}
			return printAdvice(os.Stdout, &l, time.Now())
		},
	}
	f := cmd.Flags()
	f.StringVar(&kubeconfig, "kubeconfig", "", "the cluster's kubeconfig (default: this machine's cluster)")
	f.StringVarP(&namespace, "namespace", "n", "", "the workloads' namespace (default: the kubeconfig's)")
	f.BoolVarP(&all, "all-namespaces", "A", false, "the workloads of all namespaces")
	f.StringVarP(&output, "output", "o", "", "json or yaml")
	return cmd
}

// printAdvice writes advice for people.
func printAdvice(out io.Writer, l *advice.List, now time.Time) error {
	if len(l.Items) == 0 {
		_, err := fmt.Fprintln(out, "No advice: no workload runs here that has been measured. A pod is measured from about a minute after its start.")
		return err
	}
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "NAMESPACE\tWORKLOAD\tCONTAINER\tPODS\tSEEN\tCPU REQUEST\tADVICE\tMOST\tMEMORY REQUEST\tADVICE\tMOST")
	for _, i := range l.Items {
		request := func(a advice.Amounts) string {
			if a.Request == nil {
				return "-"
			}
			return a.Request.String()
		}
		fmt.Fprintf(w, "%s\t%s/%s\t%s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", i.Namespace, strings.ToLower(i.Kind), i.Name, i.Container, i.Pods, duration.HumanDuration(now.Sub(i.Since.Time)),
			request(i.CPU), i.CPU.Target.String(), i.CPU.Most.String(), request(i.Memory), i.Memory.Target.String(), i.Memory.Most.String())
	}
	return w.Flush()
}
