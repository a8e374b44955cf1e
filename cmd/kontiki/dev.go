package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/kontiki/kontiki/cmd/kontiki/admin"
	"github.com/kontiki/kontiki/cmd/kontiki/dev"
	"github.com/kontiki/kontiki/cmd/kontiki/process"
	"github.com/kontiki/kontiki/cmd/kontiki/server"
)

func devCommand() *cobra.Command {
	var o dev.Options
	var detach, purge bool
	var output, level, program string
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run a whole cluster on this machine, each host in its own network namespace",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if os.Geteuid() != 0 {
				return errors.New("a development cluster makes network namespaces and runs containers: run it as root")
			}
			var err error
			if o.Dir, err = filepath.Abs(o.Dir); err != nil {
				return err
			}
			if detach {
				return runDetached(cmd.Context(), o.Dir)
			}
			if o.Log, err = process.NewLogger(level); err != nil {
				return err
			}
			// The process that started the cluster may stop reading its progress; the cluster must continue.
			signal.Ignore(syscall.SIGPIPE)
			o.WriteKubeconfig = server.WriteKubeconfig
			o.Progress = func(line string) {
				if line == dev.Up && !detached() {
					printNext(o.Dir)
					return
				}
				fmt.Println(line)
			}
			return dev.Run(cmd.Context(), o)
		},
	}
	cmd.PersistentFlags().StringVar(&o.Dir, "data-dir", dev.DefaultDir, "the directory of the cluster's data")
	f := cmd.Flags()
	f.IntVar(&o.Masters, "masters", 3, "how many masters")
	f.IntVar(&o.Workers, "workers", 2, "how many workers")
	f.IntVar(&o.Hollow, "hollow", 0, "how many simulated workers (see kontiki hollow), beside the others")
	f.StringArrayVar(&o.HollowArgs, "hollow-arg", nil, "an additional flag for every process of simulated workers")
	f.IntVar(&o.APIPort, "api-port", 6443, "the port of this machine (127.0.0.1) that is forwarded to the API")
	f.StringSliceVar(&o.Publish, "publish", nil, "LOCAL:NODEPORT, ports of this machine (127.0.0.1) that are forwarded to node ports")
	f.StringArrayVar(&o.ServerArgs, "server-arg", nil, "an additional flag for every master")
	f.StringArrayVar(&o.AgentArgs, "agent-arg", nil, "an additional flag for every worker")
	f.BoolVar(&detach, "detach", false, "return once the cluster is up, and leave it running")
	f.StringVar(&level, "log-level", "warn", "debug, info, warn or error")

	stop := &cobra.Command{Use: "stop [HOST]", Short: "Stop the cluster and its containers; its data stays. With HOST: stop Kontiki's processes there with SIGTERM; containers keep running",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return dev.Stop(cmd.Context(), o.Dir, purge)
			}
			if purge {
				return errors.New("--purge removes the whole cluster: it cannot be used with HOST")
			}
			return dev.StopHost(cmd.Context(), o.Dir, args[0])
		}}
	stop.Flags().BoolVar(&purge, "purge", false, "remove the cluster's data too")
	status := &cobra.Command{Use: "status", Short: "Show the cluster's hosts", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return devStatus(o.Dir, output) }}
	status.Flags().StringVarP(&output, "output", "o", "", "json")
	kill := &cobra.Command{Use: "kill HOST", Short: "Kill Kontiki's processes on a host with kill -9; containers keep running", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return dev.Kill(cmd.Context(), o.Dir, args[0]) }}
	start := &cobra.Command{Use: "start HOST", Short: "Start a host again with its data", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return dev.Start(cmd.Context(), o.Dir, args[0], program)
		}}
	start.Flags().StringVar(&program, "kontiki", "", "the kontiki binary that the host runs from now on, to try an upgrade (default: the one that it ran before)")
	cmd.AddCommand(stop, status, kill, start)
	return cmd
}

// detachedVariable tells a development cluster's process that the parent, which detaches, reads its progress.
const detachedVariable = "KONTIKI_DEV_DETACHED"

func detached() bool { return os.Getenv(detachedVariable) != "" }

// runDetached starts this command again without --detach, in a new session, and shows its progress until the cluster is up.
func runDetached(ctx context.Context, dir string) error {
	if err := os.MkdirAll(filepath.Join(dir, "logs"), 0o755); err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(dir, "logs", "dev.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	var args []string
	for _, arg := range os.Args[1:] {
		if arg != "--detach" && arg != "--detach=true" {
			args = append(args, arg)
		}
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		return err
	}
	defer reader.Close()
	cmd := exec.Command(self, args...)
	cmd.Stdout, cmd.Stderr = writer, log
	cmd.Env = append(os.Environ(), detachedVariable+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	writer.Close()
	stop := context.AfterFunc(ctx, func() { cmd.Process.Signal(syscall.SIGTERM) })
	defer stop()
	lines := bufio.NewScanner(reader)
	for lines.Scan() {
		if lines.Text() == dev.Up {
			printNext(dir)
			return cmd.Process.Release()
		}
		fmt.Println(lines.Text())
	}
	err = cmd.Wait()
	return fmt.Errorf("the cluster did not come up (%v); its log is %s:\n%s", err, log.Name(), lastLines(log.Name()))
}

// lastLines returns the end of a file, for an error message.
func lastLines(path string) string {
	file, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer file.Close()
	const most = 2000
	if info, err := file.Stat(); err == nil && info.Size() > most {
		file.Seek(-most, io.SeekEnd)
	}
	data, err := io.ReadAll(file)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(data))
}

func printNext(dir string) {
	flag, kubeconfig := "", filepath.Join(dir, "kubeconfig")
	if dir != dev.DefaultDir {
		flag = " --data-dir " + dir
	}
	fmt.Printf(`
The cluster is up.

  export KUBECONFIG=%s
  kontiki kubectl get nodes -o wide             # or any kubectl
  kontiki cluster status                        # masters, leader, health
  kontiki dev%s kill master-1                   # kill -9 a host; 'start master-1' brings it back
  kontiki dev%s status                          # the hosts
  kontiki dev%s stop                            # stop everything; --purge removes the data too

`, kubeconfig, flag, flag, flag)
}

func devStatus(dir, output string) error {
	status, err := dev.ReadStatus(dir)
	if err != nil {
		return err
	}
	switch output {
	case "json":
		return admin.PrintJSON(status)
	case "":
	default:
		return fmt.Errorf("--output: %q is not json", output)
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 4, 3, ' ', 0)
	fmt.Fprintln(w, "HOST\tROLE\tADDRESS\tSTATE\tPID")
	for _, h := range status.Hosts {
		state, pid := "down", "-"
		if h.Running {
			state, pid = "running", fmt.Sprint(h.Pid)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", h.Name, h.Role, h.Address, state, pid)
	}
	return w.Flush()
}
