// Command csidriver is the CSI driver of the tests: its node service with the registration, or its controllers.
package main

import (
	"context"
	"errors"
	"flag"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/kontiki/kontiki/test/csidriver"
)

func main() {
	mode := flag.String("mode", "node", "node or controller")
	dir := flag.String("dir", "/volumes", "the folder with the volumes, which all nodes share")
	node := flag.String("node", os.Getenv("NODE_NAME"), "the driver's name of the node")
	socket := flag.String("socket", "/csi/csi.sock", "the socket of the driver")
	endpoint := flag.String("endpoint", "/var/lib/kubelet/plugins/"+csidriver.Name+"/csi.sock", "that socket as the kubelet names it")
	registration := flag.String("registration", "", "the socket of the registration; none without it")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx, *mode, *dir, *node, *socket, *endpoint, *registration); err != nil && !errors.Is(err, context.Canceled) {
		log.Fatal(err)
	}
}

func run(ctx context.Context, mode, dir, node, socket, endpoint, registration string) error {
	if mode == "controller" {
		config, err := rest.InClusterConfig()
		if err != nil {
			return err
		}
		set, err := kubernetes.NewForConfig(config)
		if err != nil {
			return err
		}
		return (&csidriver.Controller{Set: set, Dir: dir, Period: 200 * time.Millisecond}).Run(ctx)
	}
	driver, err := csidriver.New(csidriver.Options{Dir: dir, NodeID: "id-of-" + node})
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return driver.Serve(ctx, socket) })
	if registration != "" {
		group.Go(func() error { return csidriver.Register(ctx, registration, endpoint, nil) })
	}
	return group.Wait()
}
