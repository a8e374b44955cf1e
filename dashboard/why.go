package dashboard

import (
	"bytes"
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// why answers why a pod is where it is, or does not run, line by line.
func (d *Dashboard) why(w http.ResponseWriter, r *http.Request) {
	s, err := d.session(r)
	if err != nil {
		problem(w, http.StatusUnauthorized, "Unauthorized", err.Error())
		return
	}
	if err := authentic(r, s); err != nil {
		problem(w, http.StatusForbidden, "Forbidden", err.Error())
		return
	}
	if d.Why == nil {
		problem(w, http.StatusNotFound, "NotFound", "this is not served")
		return
	}
	client, err := d.client(r, s)
	if err != nil {
		problem(w, http.StatusInternalServerError, "InternalError", err.Error())
		return
	}
	var out bytes.Buffer
	err = d.Why(r.Context(), client, r.PathValue("namespace"), r.PathValue("pod"), &out)
	if err != nil && !(apierrors.IsNotFound(err) && out.Len() > 0) {
		refuse(w, err)
		return
	}
	answer(w, map[string]any{"lines": strings.Split(strings.TrimRight(out.String(), "\n"), "\n")})
}
