package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	_ "time/tzdata" // for the time zones of CronJobs, whatever the machine has

	"github.com/spf13/cobra"

	"github.com/kontiki/kontiki/cmd/kontiki/admin"
	_ "github.com/kontiki/kontiki/cmd/kontiki/early"
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
		Version:       gitVersion,
	}
	c.AddCommand(serverCommand(), agentCommand(), devCommand(), hollowCommand(), generateCommand())
	c.AddCommand(admin.Commands()...)
	addExamples(c)
	return c
}

// newLogger creates the process's logger; level is debug, info, warn or error.
func newLogger(level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("--log-level: %q is not one of debug, info, warn, error", level)
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: l}))
	slog.SetDefault(log)
	return log, nil
}
