package main

import (
	"encoding/json"
	"net/http"
)

// serveStatus answers the cluster's status as JSON.
func (m *master) serveStatus(w http.ResponseWriter, r *http.Request) {
	status, err := m.cluster.Status(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(status) // the client is gone if this fails
}
