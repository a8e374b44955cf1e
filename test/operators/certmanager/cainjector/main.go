// Command cainjector is cert-manager's CA injector, with those of its flags that its chart sets.
package main

import (
	"context"
	"flag"
	"log"
	"os"
	"os/signal"
	"syscall"

	"github.com/cert-manager/cert-manager/pkg/api"
	"github.com/cert-manager/cert-manager/pkg/controller/cainjector"
	"github.com/cert-manager/cert-manager/pkg/util"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/klog/v2"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
)

func main() {
	klog.InitFlags(nil)
	leases := flag.String("leader-election-namespace", "kube-system", "where the lease is")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx, *leases); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, leases string) error {
	ctrl.SetLogger(klog.Background())
	config, err := ctrl.GetConfig()
	if err != nil {
		return err
	}
	kinds := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{scheme.AddToScheme, apiextensionsv1.AddToScheme, apiregistrationv1.AddToScheme, api.AddToScheme} {
		if err := add(kinds); err != nil {
			return err
		}
	}
	manager, err := ctrl.NewManager(util.RestConfigWithUserAgent(config, "cainjector"), ctrl.Options{
		Scheme: kinds, LeaderElection: true, LeaderElectionNamespace: leases, LeaderElectionID: "cert-manager-cainjector-leader-election", LeaderElectionReleaseOnCancel: true,
		Metrics: server.Options{BindAddress: ":9402"},
		Client:  client.Options{Cache: &client.CacheOptions{DisableFor: []client.Object{&corev1.Secret{}}}}, // only their metadata is watched
	})
	if err != nil {
		return err
	}
	enabled := map[string]bool{}
	for _, name := range []string{cainjector.MutatingWebhookConfigurationName, cainjector.ValidatingWebhookConfigurationName, cainjector.APIServiceName, cainjector.CustomResourceDefinitionName} {
		enabled[name] = true
	}
	if err := cainjector.RegisterAllInjectors(ctx, manager, cainjector.SetupOptions{EnableCertificatesDataSource: true, EnabledReconcilersFor: enabled}); err != nil {
		return err
	}
	return manager.Start(ctx)
}
