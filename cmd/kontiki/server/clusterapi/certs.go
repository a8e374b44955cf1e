package clusterapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/kontiki/kontiki/cluster"
	"github.com/kontiki/kontiki/cluster/identity"
	"github.com/kontiki/kontiki/cluster/join"
	"github.com/kontiki/kontiki/cmd/kontiki/admin"
)

// The actions, by their names in the API.
var certsActions = map[string]cluster.IdentityChange{
	"renew": cluster.RenewCertificates, "rotate-ca": cluster.RotateCA, "finish-ca": cluster.FinishCA,
	"rotate-gossip-key": cluster.RotateGossipKey, "rotate-secret-key": cluster.RotateSecretKey,
	"rotate-token-key": cluster.RotateTokenKey, "finish-token-key": cluster.FinishTokenKey,
}

// serveCerts shows and changes the cluster's certificates; the API has authorized the caller.
func (a *API) serveCerts(w http.ResponseWriter, r *http.Request) {
	answer, err := a.certs(r)
	if err != nil {
		code := http.StatusServiceUnavailable
		switch {
		case errors.Is(err, identity.ErrRotating), errors.Is(err, identity.ErrNotRotated), errors.Is(err, identity.ErrNotMoved):
			code = http.StatusConflict
		case errors.Is(err, errBadChange):
			code = http.StatusBadRequest
		}
		http.Error(w, err.Error(), code)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(answer) // an error means that the client has disconnected
}

var errBadChange = errors.New("not a valid change of certificates")

func (a *API) certs(r *http.Request) (any, error) {
	switch r.Method {
	case http.MethodGet:
		return a.Cluster.Certificates(r.Context())
	case http.MethodPost:
	default:
		return nil, fmt.Errorf("%w: method %s", errBadChange, r.Method)
	}
	var change admin.CertsChange
	if err := json.NewDecoder(io.LimitReader(r.Body, 1<<16)).Decode(&change); err != nil {
		return nil, fmt.Errorf("%w: %w", errBadChange, err)
	}
	if change.Action == admin.RevokeAction {
		if err := join.CheckName(change.Worker); err != nil {
			return nil, fmt.Errorf("%w: %w", errBadChange, err)
		}
		return admin.CertsChanged{Generation: a.Cluster.Identity().Generation}, a.Cluster.RevokeWorker(r.Context(), change.Worker)
	}
	action, ok := certsActions[change.Action]
	if !ok {
		return nil, fmt.Errorf("%w: %q is not one of %s, %s", errBadChange, change.Action, strings.Join(slices.Sorted(maps.Keys(certsActions)), ", "), admin.RevokeAction)
	}
	generation, err := a.Cluster.ChangeIdentity(r.Context(), action, change.Force)
	return admin.CertsChanged{Generation: generation}, err
}
