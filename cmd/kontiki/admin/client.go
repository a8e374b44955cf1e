package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"
)

// client sends requests to the administration paths of the master that the kubeconfig names.
type client struct {
	http *http.Client
	base string
	json bool
}

func newClient(kubeconfig string) (*client, error) {
	config, err := Config(kubeconfig)
	if err != nil {
		return nil, err
	}
	h, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, err
	}
	return &client{http: h, base: strings.TrimSuffix(config.Host, "/")}, nil
}

// flags are those of commands that ask the administration paths.
type flags struct{ kubeconfig, output string }

// add adds the flags to a command and those below it.
func (f *flags) add(cmd *cobra.Command) {
	cmd.PersistentFlags().StringVar(&f.kubeconfig, "kubeconfig", "", "the cluster's kubeconfig (default: this machine's cluster)")
	cmd.PersistentFlags().StringVarP(&f.output, "output", "o", "", "json")
}

// run returns the function of a command: do with a client, within a time.
func (f *flags) run(within time.Duration, do func(ctx context.Context, c *client, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if f.output != "" && f.output != "json" {
			return fmt.Errorf("--output: %q is not json", f.output)
		}
		c, err := newClient(f.kubeconfig)
		if err != nil {
			return err
		}
		c.json = f.output == "json"
		ctx, cancel := context.WithTimeout(cmd.Context(), within)
		defer cancel()
		return do(ctx, c, args)
	}
}

// do sends a request and returns the response body, which the caller must close.
func (c *client) do(ctx context.Context, method, path string, body io.Reader) (io.ReadCloser, error) {
	request, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return nil, err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, fmt.Errorf("the cluster does not answer: %w", err)
	}
	if response.StatusCode == http.StatusOK {
		return response.Body, nil
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	var status struct{ Message string }
	if json.Unmarshal(data, &status) != nil || status.Message == "" {
		status.Message = fmt.Sprintf("%s (%s)", bytes.TrimSpace(data), response.Status)
	}
	return nil, fmt.Errorf("%s", status.Message)
}

// call is do with JSON bodies. With --output json it prints the response unchanged.
func (c *client) call(ctx context.Context, method, path string, body, answer any) error {
	var sent io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return err
		}
		sent = bytes.NewReader(data)
	}
	received, err := c.do(ctx, method, path, sent)
	if err != nil {
		return err
	}
	defer received.Close()
	data, err := io.ReadAll(received)
	if err != nil {
		return err
	}
	if c.json {
		if _, err := os.Stdout.Write(data); err != nil {
			return err
		}
	}
	return json.Unmarshal(data, answer)
}

// PrintJSON writes a value to standard output, for --output json.
func PrintJSON(value any) error {
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}
