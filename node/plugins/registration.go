package plugins

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	registration1 "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/kontiki/kontiki/internal/contain"
)

const (
	// maxMessage is the size of a plugin's answer, in bytes; maxName that of a name, maxPath that of a path, maxVersions how many versions one may
	// list, and maxReason how much of an error a plugin is told.
	maxMessage, maxName, maxPath, maxVersions, maxReason = 64 << 10, 253, 1024, 32, 4096
	// infoTime and notifyTime are how long a plugin may take to answer, and registerTime how long a handler may.
	infoTime, notifyTime, registerTime = 10 * time.Second, 5 * time.Second, 2 * time.Minute
)

// errGone is the cause of the end of a registration whose socket has gone.
var errGone = errors.New("the socket has gone")

// registration is that of one socket.
type registration struct {
	w      *Watcher
	socket string
	id     identity
	end    context.CancelCauseFunc
	done   chan struct{}
}

// run registers the plugin, trying again until it succeeds, and deregisters it when the socket has gone.
func (r *registration) run(ctx context.Context) {
	defer r.end(nil)
	pause := firstPause
	for last := ""; ; pause = min(2*pause, lastPause) {
		p, err := r.register(ctx)
		if err == nil {
			slog.Info("a plugin is registered", "type", p.Type, "name", p.Name, "endpoint", p.Endpoint)
			<-ctx.Done()
			if context.Cause(ctx) == errGone {
				slog.Info("a plugin has gone", "type", p.Type, "name", p.Name, "endpoint", p.Endpoint)
				r.deregister(p)
			}
			return
		}
		if ctx.Err() != nil {
			return
		}
		if err.Error() != last { // not the same one for each try
			slog.Warn("a plugin cannot be registered", "socket", r.socket, "err", err)
			last = err.Error()
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// register asks the plugin what it is, passes it to its handler, and tells it the result.
func (r *registration) register(ctx context.Context) (Plugin, error) {
	connection, err := Connect(r.w.root, r.socket, maxMessage)
	if err != nil {
		return Plugin{}, err
	}
	defer connection.Close()
	client := registration1.NewRegistrationClient(connection)
	asked, cancel := context.WithTimeout(ctx, infoTime)
	defer cancel()
	info, err := client.GetInfo(asked, &registration1.InfoRequest{})
	if err != nil {
		return Plugin{}, fmt.Errorf("GetInfo: %w", err)
	}
	p := Plugin{Type: info.GetType(), Name: info.GetName(), Endpoint: info.GetEndpoint(), Socket: r.socket, Versions: info.GetSupportedVersions()}
	if p.Endpoint == "" {
		p.Endpoint = r.socket
	}
	registered, err := r.handle(ctx, p)
	status := &registration1.RegistrationStatus{PluginRegistered: err == nil}
	if err != nil {
		status.Error = strings.ToValidUTF8(err.Error()[:min(len(err.Error()), maxReason)], "")
	}
	told, cancel := context.WithTimeout(ctx, notifyTime)
	defer cancel()
	if _, failed := client.NotifyRegistrationStatus(told, status); failed != nil {
		err = errors.Join(err, fmt.Errorf("NotifyRegistrationStatus: %w", failed))
	}
	if err != nil && registered {
		r.deregister(p)
	}
	return p, err
}

// handle passes a plugin to its handler, and reports whether that has it now.
func (r *registration) handle(ctx context.Context, p Plugin) (bool, error) {
	if err := p.check(); err != nil {
		return false, err
	}
	handler := r.w.handlers[p.Type]
	if handler == nil {
		return false, fmt.Errorf("no handler registered for plugin type: %s at socket %s", p.Type, r.socket)
	}
	ctx, cancel := context.WithTimeout(ctx, registerTime)
	defer cancel()
	if err := contain.Run(func() error { return handler.Register(ctx, p) }); err != nil {
		if stack := contain.Stack(err); stack != "" {
			slog.Error("the handler of a plugin panicked", "type", p.Type, "name", p.Name, "err", err, "stack", stack)
		}
		return false, fmt.Errorf("plugin registration failed with err: %w", err)
	}
	return true, nil
}

func (r *registration) deregister(p Plugin) {
	if err := contain.Run(func() error { r.w.handlers[p.Type].Deregister(p); return nil }); err != nil {
		slog.Error("deregister a plugin", "type", p.Type, "name", p.Name, "err", err, "stack", contain.Stack(err))
	}
}

// check returns an error if a plugin says of itself what cannot be used.
func (p *Plugin) check() error {
	switch {
	case p.Name == "":
		return errors.New("plugin validation failed with err: name is empty")
	case len(p.Name) > maxName:
		return fmt.Errorf("plugin validation failed with err: name has over %d bytes", maxName)
	case len(p.Type) > maxName:
		return fmt.Errorf("plugin validation failed with err: type has over %d bytes", maxName)
	case len(p.Endpoint) > maxPath:
		return fmt.Errorf("plugin validation failed with err: endpoint has over %d bytes", maxPath)
	case len(p.Versions) > maxVersions:
		return fmt.Errorf("plugin validation failed with err: over %d supported_versions", maxVersions)
	}
	for _, v := range p.Versions {
		if len(v) > maxName {
			return fmt.Errorf("plugin validation failed with err: a supported version has over %d bytes", maxName)
		}
	}
	return nil
}
