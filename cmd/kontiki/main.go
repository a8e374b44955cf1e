package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	_ "time/tzdata" // for the time zones of CronJobs, whatever the machine has

	"github.com/spf13/cobra"

	"github.com/kontiki/kontiki/cmd/kontiki/admin"
	"github.com/kontiki/kontiki/cmd/kontiki/agent"
	_ "github.com/kontiki/kontiki/cmd/kontiki/early"
	"github.com/kontiki/kontiki/cmd/kontiki/process"
	"github.com/kontiki/kontiki/cmd/kontiki/server"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "kubectl" {
		os.Exit(admin.Kubectl(os.Args[1:])) // which handles signals itself
	}
	if len(os.Args) > 2 && strings.HasPrefix(os.Args[1], "__complete") && os.Args[2] == "kubectl" {
		os.Exit(admin.Kubectl(append([]string{"kubectl", os.Args[1]}, os.Args[3:]...))) // a shell completes a command of kubectl
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := root().ExecuteContext(ctx); err != nil {
		var quiet admin.ExitCode
		if errors.As(err, &quiet) {
			os.Exit(int(quiet))
		}
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func root() *cobra.Command {
	c := &cobra.Command{
		Use:           "kontiki",
		Short:         "Kontiki orchestrates containers: Kubernetes' API on a Raft-replicated store, in one binary",
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       process.GitVersion,
	}
	c.AddCommand(server.Command(), agent.Command(), devCommand(), hollowCommand(), generateCommand())
	c.AddCommand(admin.Commands()...)
	addExamples(c)
	return c
}
