package main

import (
	"context"
	"io"
	"net/http"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/kontiki/kontiki/cmd/kontiki/why"
	"github.com/kontiki/kontiki/dashboard"
)

// withDashboard returns the handler of the API port: the API and, unless it is switched off, the dashboard.
func (m *master) withDashboard() (http.Handler, error) {
	if !m.options.dashboard {
		return m.api, nil
	}
	page, err := dashboard.New(dashboard.Config{
		API: m.api,
		Keys: func() (string, map[string][]byte) {
			identity := m.cluster.Identity()
			return identity.CurrentSecretKey, identity.SecretKeys
		},
		Why: func(ctx context.Context, client kubernetes.Interface, namespace, pod string, out io.Writer) error {
			return why.Run(ctx, why.Options{Client: client, Namespace: namespace, Name: pod, Scheduler: m.options.scheduling.Config, Out: out, Now: time.Now})
		},
		Log: m.log.With("part", "dashboard"),
	})
	if err != nil {
		return nil, err
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if dashboard.Serves(r.URL.Path) {
			page.ServeHTTP(w, r)
			return
		}
		m.api.ServeHTTP(w, r)
	}), nil
}
