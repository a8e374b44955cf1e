package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"path/filepath"
	"strings"
	"time"
)

// maxReview limits the bytes of a review.
const maxReview = 8 << 20

// review serves AdmissionReviews (admission.k8s.io/v1) at port 8443: /mutate labels each object with its operation, /validate refuses objects
// whose name begins with "refused", with a warning for all others.
func review(folder string) error {
	server := &http.Server{Addr: ":8443", ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(answer)}
	log.Print("listening on :8443")
	return server.ListenAndServeTLS(filepath.Join(folder, "tls.crt"), filepath.Join(folder, "tls.key"))
}

type reviewed struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Request    *struct {
		UID       string `json:"uid"`
		Operation string `json:"operation"`
		Name      string `json:"name"`
	} `json:"request,omitempty"`
	Response map[string]any `json:"response,omitempty"`
}

func answer(w http.ResponseWriter, r *http.Request) {
	var in reviewed
	if err := json.NewDecoder(io.LimitReader(r.Body, maxReview)).Decode(&in); err != nil || in.Request == nil {
		http.Error(w, fmt.Sprintf("no review: %v", err), http.StatusBadRequest)
		return
	}
	response := map[string]any{"uid": in.Request.UID, "allowed": true}
	switch {
	case r.URL.Path == "/mutate":
		patch := fmt.Sprintf(`[{"op":"add","path":"/metadata/labels","value":{"seen":%q}}]`, strings.ToLower(in.Request.Operation))
		response["patch"], response["patchType"] = []byte(patch), "JSONPatch"
	case strings.HasPrefix(in.Request.Name, "refused"):
		response["allowed"], response["status"] = false, map[string]any{"message": "the name is refused"}
	default:
		response["warnings"] = []string{"the webhook has seen " + in.Request.Name}
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(reviewed{APIVersion: in.APIVersion, Kind: in.Kind, Response: response})
}
