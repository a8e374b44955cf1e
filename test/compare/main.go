// Command compare runs one client-go workload against Kontiki and against upstream's control plane, in turn, on this machine, and
// prints what each did and the ratios. `make compare` builds the programs and runs it.
//
// Kontiki is three masters. Upstream is kube-apiserver, kube-scheduler and kube-controller-manager, once with one member of etcd
// and once with three. Only one of them runs at a time. On both sides:
//
//   - everything that is acknowledged is on disk (fsync), in directories of the same file system;
//   - connections are TLS, also those between servers;
//   - requests are authenticated by a service account's token, authorized by RBAC, subject to priority and fairness, admitted by the
//     plugins that are on by default, and recorded in an audit log at level Metadata;
//   - the clients are the same, with client-go's default settings and no limit of their own rate: 32 for requests, with a connection
//     each, and 100 watchers, with a connection each. Kontiki's are divided among its three masters, as by a load balancer;
//   - reads have the same consistency: gets and lists have no resourceVersion, so that they show all writes acknowledged before.
//
// With -workload custom, the requests are about a custom resource, in JSON, whose definition has a schema with rules.
//
// With -workload scheduling, it measures instead how fast pods are bound to nodes that are only objects, in the shapes of upstream's
// scheduler_perf; kube-scheduler's limit of its own requests is raised as there. The system kontiki-1 is a single master, as etcd-1 is a
// single member.
//
// The clients share the processors with the servers. What the servers used is counted by the kernel, for all their processes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/rest"
)

// Values of -workload.
const (
	apiWorkload        = "api"
	customWorkload     = "custom"
	schedulingWorkload = "scheduling"
)

type options struct {
	kontiki, upstream string
	dir               string
	rounds            int
	systems           string
	encodings         string
	keep              bool
	profile           string
	kind              string
	scheduling        scheduling
	workload
}

func main() {
	var o options
	flag.StringVar(&o.kontiki, "kontiki", "bin/kontiki", "the binary of Kontiki")
	flag.StringVar(&o.upstream, "upstream", "bin/upstream", "the directory of upstream's programs")
	flag.StringVar(&o.dir, "dir", "", "where a temporary directory for all data is created (default: the system's)")
	flag.IntVar(&o.rounds, "rounds", 2, "how often each system is measured")
	flag.StringVar(&o.systems, "systems", strings.Join(systemNames, ","), "the systems to measure, in this order; kontiki-1 is a single master")
	flag.StringVar(&o.encodings, "encodings", "protobuf,json", "the encodings that clients use")
	flag.BoolVar(&o.keep, "keep", false, "keep the data and the logs")
	flag.StringVar(&o.profile, "profile", "", "a directory for a processor profile of the servers in each phase; profiling takes some of their time")
	flag.IntVar(&o.clients, "clients", 32, "how many clients make requests at the same time")
	flag.IntVar(&o.pods, "pods", 4000, "how many pods are created, read, updated, listed and deleted")
	flag.IntVar(&o.lists, "lists", 48, "how many lists of all pods")
	flag.IntVar(&o.watchers, "watchers", 100, "how many watchers")
	flag.IntVar(&o.events, "events", 500, "how many pods are created for the watchers as fast as possible")
	flag.IntVar(&o.paced, "paced", 200, "how many pods are created for the watchers at -pace")
	flag.IntVar(&o.pace, "pace", 50, "how many pods are created per second when the latency of watches is measured")
	flag.StringVar(&o.kind, "workload", "api", "api, custom or scheduling")
	flag.IntVar(&o.scheduling.nodes, "nodes", 1000, "how many nodes there are to schedule on")
	flag.StringVar(&o.scheduling.shapes, "shape", "basic,spread,affinity,preferred-affinity,anti-affinity,preemption", "the shapes of pods to schedule")
	flag.DurationVar(&o.scheduling.limit, "limit", 10*time.Minute, "how long a shape may take on a system")
	flag.Parse()
	o.scheduling.pods = o.pods
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, &o); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, o *options) (err error) {
	if o.kind != apiWorkload && o.kind != customWorkload && o.kind != schedulingWorkload {
		return fmt.Errorf("-workload: %q is not one of %s, %s and %s", o.kind, apiWorkload, customWorkload, schedulingWorkload)
	}
	if _, err := o.scheduling.names(); err != nil {
		return err
	}
	for _, path := range []*string{&o.kontiki, &o.upstream} {
		if *path, err = filepath.Abs(*path); err != nil {
			return err
		}
	}
	dir, err := os.MkdirTemp(o.dir, "ktc")
	if err != nil {
		return err
	}
	if o.keep {
		fmt.Println("the data and the logs are in", dir)
	} else {
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	}
	var results results
	for round := 1; round <= o.rounds; round++ {
		for _, name := range strings.Split(o.systems, ",") {
			fmt.Printf("round %d: %s\n", round, name)
			for i, part := range o.parts() {
				if err := measure(ctx, &part, name, filepath.Join(dir, fmt.Sprintf("%s%d-%d", name, round, i)), &results); err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
			}
		}
	}
	fmt.Println()
	results.print(os.Stdout)
	return nil
}

// parts returns what is measured with a system that is started for it alone: all of the API workload, and each shape of pods.
func (o *options) parts() []options {
	if o.kind != schedulingWorkload {
		return []options{*o}
	}
	var parts []options
	names, _ := o.scheduling.names() // checked before
	for _, name := range names {
		part := *o
		part.scheduling.shapes = name
		parts = append(parts, part)
	}
	return parts
}

// measure starts a system, runs the workload, and ends the system.
func measure(ctx context.Context, o *options, name, dir string, results *results) (err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	s, err := newSystem(o, name, dir)
	if err != nil {
		return err
	}
	defer func() {
		if stopping := s.stop(); err == nil {
			err = stopping
		}
	}()
	if err := s.start(ctx); err != nil {
		return err
	}
	var config *rest.Config
	about := pods
	if o.kind == customWorkload {
		about, o.encodings = widgets, "json"
	}
	if o.kind == schedulingWorkload {
		config, o.encodings = schedulingConfig(s), "protobuf"
	} else if config, err = prepare(ctx, s, about); err != nil {
		return err
	}
	for _, encoding := range strings.Split(o.encodings, ",") {
		r := &runner{workload: o.workload, target: about, system: s, config: config, encoding: encoding, profile: o.profile, record: func(m measurement) {
			m.system, m.encoding = name, encoding
			results.add(m)
			fmt.Println("  " + m.String())
		}}
		run := r.run
		if o.kind == schedulingWorkload {
			run = func(ctx context.Context) error { return r.runScheduling(ctx, o.scheduling) }
		}
		if err := run(ctx); err != nil {
			return fmt.Errorf("%s: %w", encoding, err)
		}
	}
	return nil
}
