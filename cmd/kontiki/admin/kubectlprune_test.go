package admin

import (
	"slices"
	"testing"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	kubectlcmd "k8s.io/kubectl/pkg/cmd"
)

func TestApplyPrunesWhatIsServed(t *testing.T) {
	mapper := meta.NewDefaultRESTMapper(nil)
	mapper.Add(schema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"}, meta.RESTScopeNamespace)
	mapper.Add(schema.GroupVersionKind{Version: "v1", Kind: "Namespace"}, meta.RESTScopeRoot)
	mapper.Add(schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"}, meta.RESTScopeNamespace)
	for name, c := range map[string]struct {
		args []string
		want []string
	}{
		"by default":         {[]string{"apply", "--prune", "--all", "-f", "-"}, []string{"core/v1/ConfigMap", "apps/v1/Deployment", "core/v1/Namespace"}},
		"with a list":        {[]string{"apply", "--prune", "--all", "--prune-allowlist=core/v1/Secret", "-f", "-"}, []string{"core/v1/Secret"}},
		"without pruning":    {[]string{"apply", "-f", "-"}, nil},
		"with an applyset":   {[]string{"apply", "--prune", "--applyset=x", "-f", "-"}, nil},
		"another subcommand": {[]string{"apply", "view-last-applied", "-f", "-"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("KUBECTL_APPLYSET", "true")
			kubectl := kubectlcmd.NewKubectlCommand(kubectlcmd.KubectlOptions{IOStreams: genericiooptions.NewTestIOStreamsDiscard()})
			apply, _, err := kubectl.Find([]string{"apply"})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			apply.Run = func(cmd *cobra.Command, _ []string) { got, err = cmd.Flags().GetStringArray("prune-allowlist") }
			for _, sub := range apply.Commands() {
				sub.Run = func(*cobra.Command, []string) {}
			}
			pruneWhatIsServed(kubectl, func() (meta.RESTMapper, error) { return mapper, nil })
			kubectl.SetArgs(c.args)
			if runErr := kubectl.Execute(); runErr != nil || err != nil {
				t.Fatal(runErr, err)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("pruned: %q, want %q", got, c.want)
			}
		})
	}
}
