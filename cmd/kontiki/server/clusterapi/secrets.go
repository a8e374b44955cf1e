package clusterapi

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kontiki/kontiki/cluster"
	"github.com/kontiki/kontiki/cmd/kontiki/admin"
)

// secretsResource is what errors of the path are about.
var secretsResource = schema.GroupResource{Group: "kontiki", Resource: "secrets"}

// serveSecrets shows and changes the keys that encrypt Secrets; the API has authorized the caller.
func (a *API) serveSecrets(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != admin.SecretsPath {
		http.NotFound(w, r)
		return
	}
	answer, err := a.secrets(r)
	if err != nil {
		answerError(w, err)
		return
	}
	answerJSON(w, http.StatusOK, answer)
}

func (a *API) secrets(r *http.Request) (any, error) {
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		return a.Cluster.SecretKeys(r.Context())
	case http.MethodPost:
	default:
		return nil, apierrors.NewMethodNotSupported(secretsResource, r.Method)
	}
	var change admin.SecretsChange
	decoder := json.NewDecoder(io.LimitReader(r.Body, 4096))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&change); err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf(`the body must be {"action": "rotate"}, "rotate-without-kms" or "finish": %v`, err))
	}
	switch change.Action {
	case "rotate", "rotate-without-kms":
		action := cluster.RotateSecretKey
		if change.Action != "rotate" {
			action = cluster.RotateToOwnKey
		}
		generation, err := a.Cluster.ChangeIdentity(r.Context(), action, false)
		return admin.CertsChanged{Generation: generation}, err
	case "finish":
		return admin.CertsChanged{Generation: a.Cluster.Identity().Generation}, a.Cluster.FinishSecretKeys(r.Context())
	}
	return nil, apierrors.NewBadRequest(fmt.Sprintf("the action %q is not one of rotate, rotate-without-kms, finish", change.Action))
}
