package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"log"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// extend serves the group version tools.example.com/v1 at port 8443, to clients alone that have a certificate of the CAs in the variable
// FRONT_PROXY_CA. Its only resource are notes: the note whoami of each namespace contains the request's user and groups, others can be created. In
// external.metrics.k8s.io/v1beta1 it serves metrics, whose value is 30.
func extend(folder string) error {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(os.Getenv("FRONT_PROXY_CA"))) {
		return errors.New("FRONT_PROXY_CA has no certificate")
	}
	server := &http.Server{Addr: ":8443", ReadHeaderTimeout: 5 * time.Second, Handler: &notes{changed: make(chan struct{})},
		TLSConfig: &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: roots}}
	log.Print("listening on :8443")
	return server.ListenAndServeTLS(filepath.Join(folder, "tls.crt"), filepath.Join(folder, "tls.key"))
}

type object = map[string]any

// notes are kept in memory.
type notes struct {
	mu      sync.Mutex
	created []object
	changed chan struct{} // closed at each creation
}

func (n *notes) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	const prefix = "/apis/tools.example.com/v1"
	w.Header().Set("Content-Type", "application/json")
	if r.URL.Path == prefix {
		write(w, object{"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "tools.example.com/v1", "resources": []object{
			{"name": "notes", "singularName": "note", "namespaced": true, "kind": "Note", "verbs": []string{"create", "get", "list", "watch"}, "shortNames": []string{"nt"}}}})
		return
	}
	if metric, ok := strings.CutPrefix(r.URL.Path, "/apis/external.metrics.k8s.io/v1beta1"); ok {
		if metric == "" {
			write(w, object{"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "external.metrics.k8s.io/v1beta1", "resources": []object{}})
			return
		}
		write(w, object{"kind": "ExternalMetricValueList", "apiVersion": "external.metrics.k8s.io/v1beta1", "metadata": object{}, "items": []object{
			{"metricName": path.Base(metric), "metricLabels": object{}, "timestamp": time.Now().Format(time.RFC3339), "value": "30"}}})
		return
	}
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, prefix+"/"), "/")
	if len(parts) < 3 || len(parts) > 4 || parts[0] != "namespaces" || parts[2] != "notes" {
		http.NotFound(w, r)
		return
	}
	user := object{"user": r.Header.Get("X-Remote-User"), "groups": r.Header.Values("X-Remote-Group"), "authorization": r.Header.Values("Authorization")}
	switch {
	case r.Method == http.MethodPost:
		var note object
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&note); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		n.mu.Lock()
		n.created = append(n.created, note)
		close(n.changed)
		n.changed = make(chan struct{})
		n.mu.Unlock()
		w.WriteHeader(http.StatusCreated)
		write(w, note)
	case len(parts) == 4:
		write(w, whoami(parts[1], user))
	case r.URL.Query().Get("watch") != "":
		n.watch(w, r, whoami(parts[1], user))
	default:
		write(w, object{"kind": "NoteList", "apiVersion": "tools.example.com/v1", "metadata": object{"resourceVersion": "1"}, "items": []object{whoami(parts[1], user)}})
	}
}

// watch sends a note, and then those that are created until the client leaves.
func (n *notes) watch(w http.ResponseWriter, r *http.Request, first object) {
	send := func(note object) {
		write(w, object{"type": "ADDED", "object": note})
		http.NewResponseController(w).Flush() // an error is that of a client that has left
	}
	n.mu.Lock()
	sent, changed := len(n.created), n.changed
	n.mu.Unlock()
	send(first)
	for {
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
		n.mu.Lock()
		fresh := n.created[sent:]
		sent, changed = len(n.created), n.changed
		n.mu.Unlock()
		for _, note := range fresh {
			send(note)
		}
	}
}

func whoami(namespace string, spec object) object {
	return object{"kind": "Note", "apiVersion": "tools.example.com/v1", "metadata": object{"name": "whoami", "namespace": namespace, "resourceVersion": "1"}, "spec": spec}
}

func write(w http.ResponseWriter, value any) {
	if err := json.NewEncoder(w).Encode(value); err != nil {
		log.Print(err)
	}
}
