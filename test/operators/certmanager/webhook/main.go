// Command webhook is cert-manager's webhook, with all of its flags.
package main

import (
	"context"
	"log"
	"os"
	"os/signal"
	"syscall"

	"github.com/cert-manager/cert-manager/internal/webhook"
	"github.com/cert-manager/cert-manager/pkg/logs"
	"github.com/cert-manager/cert-manager/pkg/webhook/options"
	"github.com/spf13/pflag"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	logs.InitLogs()
	config, err := options.NewWebhookConfiguration()
	if err != nil {
		log.Fatal(err)
	}
	options.AddConfigFlags(pflag.CommandLine, config)
	pflag.Parse()
	if err := logs.ValidateAndApply(&config.Logging); err != nil {
		log.Fatal(err)
	}
	server, err := webhook.NewCertManagerWebhookServer(logs.Log, *config)
	if err != nil {
		log.Fatal(err)
	}
	if err := server.Run(logs.NewContext(ctx, logs.Log)); err != nil && ctx.Err() == nil {
		log.Fatal(err)
	}
}
