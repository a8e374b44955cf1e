package admin

import (
	"os"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/component-base/cli"
	kubectlcmd "k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"
)

// Kubectl runs kubectl itself. If KUBECONFIG names no cluster, it uses the one that the other commands use (Config), and only if there is
// none on this machine that of ~/.kube/config.
func Kubectl(args []string) int {
	os.Args = args
	if path := kubeconfigPath(""); path != "" {
		os.Setenv("KUBECONFIG", path)
	}
	// The same as kubectl's own defaults, which it does not export.
	streams := genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr}
	flags := genericclioptions.NewConfigFlags(true).WithDeprecatedPasswordFlag().WithDiscoveryBurst(300).WithDiscoveryQPS(50).WithWarningPrinter(streams)
	command := kubectlcmd.NewDefaultKubectlCommandWithArgs(kubectlcmd.KubectlOptions{
		PluginHandler: kubectlcmd.NewDefaultPluginHandler([]string{"kubectl"}),
		Arguments:     args,
		ConfigFlags:   flags,
		IOStreams:     streams,
	})
	pruneWhatIsServed(command, flags.ToRESTMapper)
	if err := cli.RunNoErrOutput(command); err != nil {
		util.CheckErr(err) // prints as kubectl does, and exits
	}
	return 0
}

// kubectlCommand is only for the help text: main calls kubectl before cobra parses its flags.
func kubectlCommand() *cobra.Command {
	return &cobra.Command{Use: "kubectl", Short: "kubectl itself, for this machine's cluster", DisableFlagParsing: true,
		Run: func(*cobra.Command, []string) {}}
}
