package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

type agentOptions struct{}

func (o *agentOptions) flags(f *pflag.FlagSet) {}

func agentCommand() *cobra.Command { return notBuilt("agent") }

func (m *master) runAgent(ctx context.Context) error { return errors.New("not yet") }
