package main

import (
	"fmt"
	"net/netip"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/kontiki/kontiki/cmd/kontiki/agent"
	"github.com/kontiki/kontiki/cmd/kontiki/hollow"
	"github.com/kontiki/kontiki/cmd/kontiki/process"
)

func hollowCommand() *cobra.Command {
	o := hollow.Options{Port: agent.KubeletPort, Version: process.GitVersion}
	var addresses, level string
	var capacity map[string]string
	cmd := &cobra.Command{
		Use:   "hollow --count N --addresses RANGE --join HOST:6444 --token TOKEN",
		Short: "Run many simulated workers, to try a cluster at scale",
		Long: `Run many workers in this process that are real in all that masters see, and run no containers: a container only takes some time to
start, and then runs until it is to end (the command "sleep N" ends after N seconds). "kontiki dev --hollow N" runs a cluster with them.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if o.Log, err = process.NewLogger(level); err != nil {
				return err
			}
			if o.Addresses, err = netip.ParsePrefix(addresses); err != nil {
				return fmt.Errorf("--addresses: %w", err)
			}
			if o.Capacity, err = parseCapacity(capacity); err != nil {
				return fmt.Errorf("--capacity: %w", err)
			}
			return process.UnlessStopped(cmd.Context(), hollow.Run(cmd.Context(), o))
		},
	}
	f := cmd.Flags()
	f.StringVar(&level, "log-level", "warn", "debug, info, warn or error")
	f.IntVar(&o.Count, "count", 0, "how many workers")
	f.IntVar(&o.First, "first", 1, "the number of the first worker; a worker's name is hollow- and its number")
	f.StringVar(&addresses, "addresses", "", "a range of addresses that this host accepts; each worker has one of it")
	f.StringVar(&o.DataDir, "data-dir", "/var/lib/kontiki/hollow", "the directory of the workers' data, which should be in memory")
	f.StringSliceVar(&o.Join, "join", nil, "HOST:PORT of masters")
	f.StringVar(&o.Token, "token", "", "a join token for workers")
	f.DurationVar(&o.StartDelay, "start-delay", 0, "how long a container takes to start")
	f.StringToStringVar(&capacity, "capacity", map[string]string{"cpu": "32", "memory": "256Gi", "pods": "110"}, "the resources of each worker")
	return cmd
}

func parseCapacity(texts map[string]string) (corev1.ResourceList, error) {
	out := corev1.ResourceList{}
	for name, text := range texts {
		q, err := resource.ParseQuantity(text)
		if err != nil || q.Sign() < 0 {
			return nil, fmt.Errorf("%s: %q is not a positive quantity", name, text)
		}
		out[corev1.ResourceName(name)] = q
	}
	return out, nil
}
