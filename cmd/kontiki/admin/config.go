package admin

import (
	"fmt"
	"os"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kontiki/kontiki/cmd/kontiki/dev"
)

// DefaultServerDir is a master's data directory.
const DefaultServerDir = "/var/lib/kontiki/server"

// Config finds the cluster of an administrator's command: by --kubeconfig, KUBECONFIG, this machine's development cluster, or
// the master that runs here.
func Config(kubeconfig string) (*rest.Config, error) {
	if list := os.Getenv("KUBECONFIG"); kubeconfig == "" && list != "" {
		// As kubectl reads it: files separated by colons, of which the first that has something counts.
		config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(clientcmd.NewDefaultClientConfigLoadingRules(), &clientcmd.ConfigOverrides{}).ClientConfig()
		if err != nil {
			return nil, fmt.Errorf("KUBECONFIG: %w", err)
		}
		config.QPS = -1
		return config, nil
	}
	kubeconfig = kubeconfigPath(kubeconfig)
	if kubeconfig == "" {
		return nil, fmt.Errorf("no cluster found on this machine: name one with --kubeconfig, or start one with `kontiki dev`")
	}
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("--kubeconfig: %w", err)
	}
	config.QPS = -1
	return config, nil
}

// kubeconfigPath returns the file that Config reads, or nothing if KUBECONFIG says what is read or there is none.
func kubeconfigPath(kubeconfig string) string {
	if kubeconfig != "" || os.Getenv("KUBECONFIG") != "" {
		return kubeconfig
	}
	for _, path := range []string{dev.DefaultDir + "/kubeconfig", DefaultServerDir + "/admin.kubeconfig"} {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return ""
}

// configIn is Config for a command about a namespace: if none is given, it is the kubeconfig's.
func configIn(kubeconfig string, namespace *string) (*rest.Config, error) {
	config, err := Config(kubeconfig)
	if err == nil && *namespace == "" {
		*namespace, err = namespaceOf(kubeconfig)
	}
	return config, err
}

// namespaceOf returns the namespace of a kubeconfig's context.
func namespaceOf(kubeconfig string) (string, error) {
	rules := &clientcmd.ClientConfigLoadingRules{ExplicitPath: kubeconfig}
	if kubeconfig == "" {
		if os.Getenv("KUBECONFIG") == "" {
			return "default", nil
		}
		rules = clientcmd.NewDefaultClientConfigLoadingRules()
	}
	namespace, _, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{}).Namespace()
	return namespace, err
}

// ExitCode is an error that ends the process with a status and without a message.
type ExitCode int

func (e ExitCode) Error() string { return fmt.Sprintf("exit status %d", int(e)) }
