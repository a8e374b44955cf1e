// Command back is the demo's back end: it responds with the greeting in its ConfigMap, and with a hash of its Secret as proof that
// it can read it.
package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"log"
	"net/http"
	"os"

	"github.com/kontiki/kontiki/examples/demo/internal/graceful"
)

type greeting struct {
	Greeting string `json:"greeting"`
	Pod      string `json:"pod"`
	Node     string `json:"node"`
	Proof    string `json:"proof"`
}

func main() {
	secret, err := os.ReadFile("/etc/demo/secret/password")
	if err != nil {
		log.Fatalf("the Secret is not mounted: %v", err)
	}
	sum := sha256.Sum256(secret)
	answer := greeting{Greeting: os.Getenv("GREETING"), Pod: os.Getenv("POD_NAME"), Node: os.Getenv("NODE_NAME"), Proof: hex.EncodeToString(sum[:4])}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			log.Printf("answer: %v", err)
		}
	})
	graceful.Serve(mux)
}
