package dev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// HostStatus is the state of a host as `kontiki dev status` shows it.
type HostStatus struct {
	Host
	// Namespace is the host's network namespace, for `ip netns exec`.
	Namespace string `json:"namespace"`
	Running   bool   `json:"running"`
	Pid       int    `json:"pid,omitempty"`
}

// Status is the present state of a development cluster.
type Status struct {
	Dir        string       `json:"dir"`
	Kubeconfig string       `json:"kubeconfig"`
	API        string       `json:"api"`
	Running    bool         `json:"running"`
	Hosts      []HostStatus `json:"hosts"`
}

// ReadStatus returns the status of the cluster in dir; the supervisor need not be running.
func ReadStatus(dir string) (*Status, error) {
	s, err := load(dir)
	if err != nil {
		return nil, err
	}
	status := &Status{Dir: s.Dir, Kubeconfig: s.Kubeconfig(), API: fmt.Sprintf("https://127.0.0.1:%d", s.APIPort), Running: s.Processes["supervisor"].alive()}
	for _, h := range s.Hosts {
		p := s.Processes[h.Name]
		host := HostStatus{Host: h, Namespace: s.namespace(h), Running: p.alive()}
		if host.Running {
			host.Pid = p.Pid
		}
		status.Hosts = append(status.Hosts, host)
	}
	return status, nil
}

// serveControl serves commands on the cluster's socket.
func (s *Supervisor) serveControl(ctx context.Context) error {
	path := s.state.socket()
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return err
	}
	mux := http.NewServeMux()
	host := func(act func(*http.Request, Host) error) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			h, err := s.state.host(r.PathValue("host"))
			if err == nil {
				err = act(r, h)
			}
			if err != nil {
				http.Error(w, err.Error(), http.StatusConflict)
			}
		}
	}
	mux.HandleFunc("POST /hosts/{host}/kill", host(func(_ *http.Request, h Host) error { return s.end(h, syscall.SIGKILL) }))
	mux.HandleFunc("POST /hosts/{host}/stop", host(func(_ *http.Request, h Host) error { return s.end(h, syscall.SIGTERM) }))
	mux.HandleFunc("POST /hosts/{host}/start", host(func(r *http.Request, h Host) error {
		if err := s.setProgram(h, r.URL.Query().Get("program")); err != nil {
			return err
		}
		return s.start(h)
	}))
	mux.HandleFunc("POST /stop", func(w http.ResponseWriter, _ *http.Request) {
		// Complete the response first: the socket is closed as soon as everything stops.
		w.Header().Set("Content-Length", "0")
		w.WriteHeader(http.StatusOK)
		if err := http.NewResponseController(w).Flush(); err != nil {
			s.log.Warn("the response to the stop command could not be sent", "error", err)
		}
		s.stopAll()
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// call sends a command to the supervisor of the cluster in dir.
func call(ctx context.Context, s *State, path string) error {
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", s.socket())
	}}}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://dev"+path, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("the supervisor of the cluster in %s does not answer (`kontiki dev stop` cleans up after it): %w", s.Dir, err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return errors.New(strings.TrimSpace(string(text)))
	}
	return nil
}

// Kill kills all Kontiki processes of a host, as kill -9 does; containers keep running.
func Kill(ctx context.Context, dir, host string) error { return hostCall(ctx, dir, host, "kill") }

// StopHost stops Kontiki's processes on a host with SIGTERM, as a service manager does; containers keep running.
func StopHost(ctx context.Context, dir, host string) error { return hostCall(ctx, dir, host, "stop") }

// Start starts a host again with its data. From then on it runs the kontiki binary at program; "" means the one that it ran before.
func Start(ctx context.Context, dir, host, program string) error {
	if program == "" {
		return hostCall(ctx, dir, host, "start")
	}
	path, err := exec.LookPath(program)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return fmt.Errorf("--kontiki: %w", err)
	}
	return hostCall(ctx, dir, host, "start?program="+url.QueryEscape(path))
}

func hostCall(ctx context.Context, dir, name, what string) error {
	s, err := load(dir)
	if err != nil {
		return err
	}
	if _, err := s.host(name); err != nil {
		return err
	}
	return call(ctx, s, "/hosts/"+name+"/"+what)
}

// Stop stops the cluster and cleans up, even if its supervisor is not running; purge also removes its data.
func Stop(ctx context.Context, dir string, purge bool) error {
	s, err := load(dir)
	if err != nil {
		return err
	}
	if supervisor := s.Processes["supervisor"]; supervisor.alive() {
		if err := call(ctx, s, "/stop"); err != nil {
			return err
		}
		if err := poll(ctx, time.Minute, "the supervisor to end", func() error {
			if supervisor.alive() {
				return errors.New("it still runs")
			}
			return nil
		}); err != nil {
			return err
		}
		if s, err = load(dir); err != nil {
			return err
		}
	}
	if err := s.tearDown(); err != nil {
		return err
	}
	if purge {
		return s.purge(ctx)
	}
	return nil
}
