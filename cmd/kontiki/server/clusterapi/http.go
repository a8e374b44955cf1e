package clusterapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kontiki/kontiki/cluster/backup"
	"github.com/kontiki/kontiki/cluster/errclass"
	"github.com/kontiki/kontiki/cluster/identity"
	"github.com/kontiki/kontiki/cmd/kontiki/admin"
	"github.com/kontiki/kontiki/internal/kv"
)

// Paths returns what is served by HTTP, by the paths of package admin. A path that ends in a slash is served with all below it.
func (a *API) Paths() map[string]http.Handler {
	status := a.status()
	return map[string]http.Handler{
		admin.ClusterPath: status, admin.ClusterPath + "/": status, admin.SnapshotPath: status, admin.SnapshotPath + "/": status,
		admin.CertsPath: http.HandlerFunc(a.serveCerts), admin.SecretsPath: http.HandlerFunc(a.serveSecrets),
	}
}

// status serves the cluster's status, its members and its snapshots.
func (a *API) status() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+admin.ClusterPath, a.serveStatus)
	mux.HandleFunc("GET "+admin.ClusterPath+"/members", a.serveMembers)
	mux.HandleFunc("GET "+admin.ClusterPath+"/flags", a.serveFlags)
	mux.HandleFunc("DELETE "+admin.ClusterPath+"/members/{name}", a.removeMember)
	mux.HandleFunc("POST "+admin.ClusterPath+"/transfer", a.transferLeadership)
	mux.HandleFunc("GET "+admin.SnapshotPath, a.saveSnapshot)
	mux.HandleFunc("POST "+admin.SnapshotPath+"/restore", a.restoreSnapshot)
	return mux
}

func answerJSON(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(value) // an error means that the client has disconnected
}

// answerError responds with a Status, as the rest of the API does.
func answerError(w http.ResponseWriter, err error) {
	status := adminStatus(err)
	answerJSON(w, int(status.Code), status)
}

// adminStatus returns the Status with which both fronts report an error of the administration.
func adminStatus(err error) metav1.Status {
	code, reason := http.StatusInternalServerError, metav1.StatusReasonInternalError
	switch {
	case errors.Is(err, errclass.ErrNotMember), errors.Is(err, errclass.ErrTokenNotFound):
		code, reason = http.StatusNotFound, metav1.StatusReasonNotFound
	case errors.Is(err, backup.ErrBad), apierrors.IsBadRequest(err):
		code, reason = http.StatusBadRequest, metav1.StatusReasonBadRequest
	case errors.Is(err, backup.ErrForeign), errors.Is(err, errclass.ErrFeatureLevel), errors.Is(err, errclass.ErrRefused),
		errors.Is(err, identity.ErrRotating), errors.Is(err, identity.ErrNotRotated), errors.Is(err, identity.ErrNotMoved):
		code, reason = http.StatusConflict, metav1.StatusReasonConflict
	case apierrors.IsMethodNotSupported(err):
		code, reason = http.StatusMethodNotAllowed, metav1.StatusReasonMethodNotAllowed
	case errors.Is(err, kv.ErrNoLeader), errors.Is(err, kv.ErrOutcomeUnknown):
		code, reason = http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable
	}
	status := apierrors.NewGenericServerResponse(code, "", schema.GroupResource{}, "", "", 0, false).Status()
	status.Message, status.Reason, status.Details = err.Error(), reason, nil
	status.APIVersion, status.Kind = "v1", "Status"
	return status
}

// serveStatus responds with the cluster's status.
func (a *API) serveStatus(w http.ResponseWriter, r *http.Request) {
	status, err := a.Cluster.Status(r.Context())
	if err != nil {
		answerError(w, err)
		return
	}
	answerJSON(w, http.StatusOK, status)
}

// serveMembers responds with all hosts, masters and workers, as gossip sees them.
func (a *API) serveMembers(w http.ResponseWriter, _ *http.Request) {
	answerJSON(w, http.StatusOK, map[string]any{"members": a.Cluster.Members()})
}

// serveFlags responds with this master's flags.
func (a *API) serveFlags(w http.ResponseWriter, _ *http.Request) {
	answerJSON(w, http.StatusOK, admin.FlagsAnswer{Master: a.Cluster.Name(), Flags: a.Flags})
}

func (a *API) removeMember(w http.ResponseWriter, r *http.Request) {
	if err := a.Cluster.RemoveMember(r.Context(), r.PathValue("name")); err != nil {
		answerError(w, err)
		return
	}
	answerJSON(w, http.StatusOK, map[string]string{"removed": r.PathValue("name")})
}

func (a *API) transferLeadership(w http.ResponseWriter, r *http.Request) {
	var request admin.TransferRequest
	decoder := json.NewDecoder(io.LimitReader(r.Body, 4096))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&request); err != nil {
		answerError(w, apierrors.NewBadRequest(fmt.Sprintf(`the body must be {"to": "NAME"}: %v`, err)))
		return
	}
	leader, err := a.Cluster.TransferLeadership(r.Context(), request.To)
	if err != nil {
		answerError(w, err)
		return
	}
	answerJSON(w, http.StatusOK, admin.TransferAnswer{Leader: leader})
}

// saveSnapshot streams a backup. If it fails in the middle the connection is aborted, so that no client takes the backup for
// complete.
func (a *API) saveSnapshot(w http.ResponseWriter, r *http.Request) {
	out := &startedWriter{w: w}
	_, err := a.Cluster.Backups().Save(r.Context(), out)
	switch {
	case err == nil:
	case !out.started:
		answerError(w, err)
	default:
		a.Log.Warn("a backup was not sent completely", "error", err)
		panic(http.ErrAbortHandler)
	}
}

// startedWriter records whether a response has begun.
type startedWriter struct {
	w       http.ResponseWriter
	started bool
}

func (s *startedWriter) Write(b []byte) (int, error) {
	if !s.started {
		s.started = true
		s.w.Header().Set("Content-Type", "application/octet-stream")
	}
	return s.w.Write(b)
}

// restoreSnapshot restores the backup in the request's body. ?force=true allows one of another cluster.
func (a *API) restoreSnapshot(w http.ResponseWriter, r *http.Request) {
	restored, err := a.Cluster.Backups().Restore(r.Context(), r.Body, r.URL.Query().Get("force") == "true")
	if err != nil {
		answerError(w, err)
		return
	}
	answerJSON(w, http.StatusOK, restored)
}
