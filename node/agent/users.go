package agent

import (
	"context"
	"log/slog"

	"github.com/kontiki/kontiki/node/pods"
	"github.com/kontiki/kontiki/node/userns"
)

// openUsers returns what gives ids to pods with user namespaces, or why there are none. podDir has the pods' folders.
func (a *Agent) openUsers(podDir string) (users pods.Users, why string) {
	if why := a.c.Runtime.Features().NoUserNamespaces; why != "" {
		return nil, why
	}
	whole, err := userns.HostRange(context.Background())
	if err == nil {
		var m *userns.Manager
		if m, err = userns.Open(podDir, whole, a.c.MaxPods); err == nil {
			return m, ""
		}
	}
	slog.Error("pods with hostUsers: false are refused", "err", err)
	return nil, err.Error()
}
