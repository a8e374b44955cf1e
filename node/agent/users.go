package agent

import (
	"context"
	"log/slog"
	"path/filepath"

	"github.com/kontiki/kontiki/node/pods"
	"github.com/kontiki/kontiki/node/userns"
)

// openUsers returns what gives ids to pods with user namespaces, or why there are none.
func (a *Agent) openUsers() (users pods.Users, why string) {
	if why := a.c.Runtime.Features().NoUserNamespaces; why != "" {
		return nil, why
	}
	whole, err := userns.HostRange(context.Background())
	if err == nil {
		var m *userns.Manager
		if m, err = userns.Open(filepath.Join(a.c.StateDir, "pods"), whole, a.c.MaxPods); err == nil {
			return m, ""
		}
	}
	slog.Error("pods with hostUsers: false are refused", "err", err)
	return nil, err.Error()
}
