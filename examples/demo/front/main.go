// Command front is the demo's front end: it sends a request to the back end, by the name of its Service, and shows the response.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/kontiki/kontiki/examples/demo/internal/graceful"
)

func main() {
	back := os.Getenv("BACK_URL")
	if back == "" {
		log.Fatal("BACK_URL is not set: it must name the back end's Service")
	}
	client := &http.Client{Timeout: 5 * time.Second}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
		answer, err := ask(r.Context(), client, back)
		if err != nil {
			http.Error(w, "the back end does not answer: "+err.Error(), http.StatusBadGateway)
			return
		}
		fmt.Fprintf(w, "%s\n  front end: %s on %s\n  back end:  %s on %s (knows the secret: %s)\n",
			answer.Greeting, os.Getenv("POD_NAME"), os.Getenv("NODE_NAME"), answer.Pod, answer.Node, answer.Proof)
	})
	graceful.Serve(mux)
}

type greeting struct{ Greeting, Pod, Node, Proof string }

func ask(ctx context.Context, client *http.Client, url string) (g greeting, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return g, err
	}
	response, err := client.Do(request)
	if err != nil {
		return g, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return g, fmt.Errorf("it answers %s", response.Status)
	}
	return g, json.NewDecoder(response.Body).Decode(&g)
}
