// Package bundle collects what is needed to find out what is wrong with a cluster into one archive, without the secrets that are in it.
package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

// Master is a master and the address of its API.
type Master struct{ Name, Address string }

// Options say of which cluster, and into what.
type Options struct {
	Config *rest.Config
	// Masters are asked each for its metrics and profiles, as far as they can be reached from here.
	Masters []Master
	// Documents are put in by their names, as JSON.
	Documents map[string]any
	// Logs are files of this machine, of which the last megabytes are put in.
	Logs []string
	// Profile is how long the use of processors is recorded on each master.
	Profile time.Duration
	Now     func() time.Time
}

// Bounds of what is collected.
const (
	maxPart  = 64 << 20 // bytes of one answer
	maxLog   = 4 << 20  // bytes of a log file
	maxItems = 50_000   // objects of a kind
	partTime = 30 * time.Second
	dialTime = 3 * time.Second
)

// resources are those whose objects are put in, scrubbed.
var resources = []schema.GroupVersionResource{
	{Version: "v1", Resource: "nodes"}, {Version: "v1", Resource: "namespaces"}, {Version: "v1", Resource: "pods"}, {Version: "v1", Resource: "events"},
	{Version: "v1", Resource: "services"}, {Version: "v1", Resource: "persistentvolumes"}, {Version: "v1", Resource: "persistentvolumeclaims"},
	{Version: "v1", Resource: "configmaps"}, {Version: "v1", Resource: "secrets"}, {Version: "v1", Resource: "resourcequotas"}, {Version: "v1", Resource: "limitranges"},
	{Group: "apps", Version: "v1", Resource: "deployments"}, {Group: "apps", Version: "v1", Resource: "replicasets"},
	{Group: "apps", Version: "v1", Resource: "statefulsets"}, {Group: "apps", Version: "v1", Resource: "daemonsets"},
	{Group: "batch", Version: "v1", Resource: "jobs"}, {Group: "batch", Version: "v1", Resource: "cronjobs"},
	{Group: "autoscaling", Version: "v2", Resource: "horizontalpodautoscalers"}, {Group: "policy", Version: "v1", Resource: "poddisruptionbudgets"},
	{Group: "discovery.k8s.io", Version: "v1", Resource: "endpointslices"}, {Group: "storage.k8s.io", Version: "v1", Resource: "storageclasses"},
	{Group: "storage.k8s.io", Version: "v1", Resource: "volumeattachments"}, {Group: "storage.k8s.io", Version: "v1", Resource: "csinodes"},
	{Group: "scheduling.k8s.io", Version: "v1", Resource: "priorityclasses"}, {Group: "coordination.k8s.io", Version: "v1", Resource: "leases"},
}

// writer writes the archive, and collects what failed.
type writer struct {
	Options
	tar      *tar.Writer
	failures []string
}

// Write collects everything into a file with mode 0600, which exists afterwards if it is complete. progress is called before each part. What
// cannot be had is listed in the archive's file failures.txt, and is no error.
func Write(ctx context.Context, path string, o Options, progress func(part string)) (err error) {
	file, err := os.CreateTemp(filepath.Dir(path), ".kontiki-debug-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, file.Close(), os.Remove(file.Name()))
		}
	}()
	zip := gzip.NewWriter(file)
	w := &writer{Options: o, tar: tar.NewWriter(zip)}
	if err := w.all(ctx, progress); err != nil {
		return err
	}
	if err := errors.Join(w.tar.Close(), zip.Close(), file.Sync()); err != nil {
		return err
	}
	if err := os.Rename(file.Name(), path); err != nil {
		return err
	}
	return file.Close()
}

func (w *writer) all(ctx context.Context, progress func(string)) error {
	for name, document := range w.Documents {
		data, err := json.MarshalIndent(document, "", "  ")
		if err := w.put(ctx, name, data, err); err != nil {
			return err
		}
	}
	objects, err := dynamic.NewForConfig(w.Config)
	if err != nil {
		return err
	}
	for _, r := range resources {
		progress(r.Resource)
		data, err := list(ctx, objects.Resource(r))
		if err := w.put(ctx, "objects/"+r.GroupResource().String()+".json", data, err); err != nil {
			return err
		}
	}
	progress("health and timings")
	for _, path := range []string{"/readyz?verbose", "/livez?verbose", "/version"} {
		data, err := w.get(ctx, w.Config, path)
		if err := w.put(ctx, "health"+strings.ReplaceAll(strings.TrimSuffix(path, "?verbose"), "/", "-")+".txt", data, err); err != nil {
			return err
		}
	}
	data, err := w.timings(ctx)
	if err := w.put(ctx, "timings.json", data, err); err != nil {
		return err
	}
	for _, m := range w.Masters {
		progress("master " + m.Name)
		if err := w.master(ctx, m); err != nil {
			return err
		}
	}
	for _, file := range w.Logs {
		data, err := tail(file)
		data = inText.ReplaceAll(data, []byte("${1}"+hidden))
		if err := w.put(ctx, "logs/"+filepath.Base(file), data, err); err != nil {
			return err
		}
	}
	return w.file("failures.txt", []byte(strings.Join(w.failures, "\n")+"\n"))
}

// put writes a part, or notes why it cannot be had.
func (w *writer) put(ctx context.Context, name string, data []byte, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		w.failures = append(w.failures, name+": "+err.Error())
		return nil
	}
	return w.file(name, data)
}

func (w *writer) file(name string, data []byte) error {
	if err := w.tar.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(data)), ModTime: w.Now()}); err != nil {
		return err
	}
	_, err := w.tar.Write(data)
	return err
}

// list returns the objects of a resource, scrubbed, one in a line.
func list(ctx context.Context, r dynamic.ResourceInterface) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, partTime)
	defer cancel()
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	o := metav1.ListOptions{Limit: 500}
	for n := 0; ; {
		page, err := r.List(ctx, o)
		if err != nil {
			return nil, err
		}
		for _, item := range page.Items {
			if n++; n > maxItems || out.Len() > maxPart {
				fmt.Fprintf(&out, "{\"left out\": \"more than %d objects or %d bytes\"}\n", maxItems, maxPart)
				return out.Bytes(), nil
			}
			if err := encoder.Encode(scrubbed(item)); err != nil {
				return nil, err
			}
		}
		if o.Continue = page.GetContinue(); o.Continue == "" {
			return out.Bytes(), nil
		}
	}
}

func scrubbed(item unstructured.Unstructured) map[string]any {
	scrub(item.Object)
	return item.Object
}

// get returns the answer to a request, at most maxPart bytes of it.
func (w *writer) get(ctx context.Context, config *rest.Config, path string) ([]byte, error) {
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, partTime+w.Profile)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(config.Host, "/")+path, nil)
	if err != nil {
		return nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, maxPart))
	if err == nil && response.StatusCode != http.StatusOK && !strings.HasSuffix(path, "?verbose") {
		return nil, fmt.Errorf("%s: %.200s", response.Status, data)
	}
	return data, err
}

// timings returns how long some requests took.
func (w *writer) timings(ctx context.Context) ([]byte, error) {
	out := map[string][]string{}
	for _, path := range []string{"/livez", "/api/v1/namespaces/default", "/api/v1/namespaces/default?resourceVersion=0"} {
		for range 10 {
			begin := time.Now()
			if _, err := w.get(ctx, w.Config, path); err != nil {
				return nil, err
			}
			out[path] = append(out[path], time.Since(begin).Round(10*time.Microsecond).String())
		}
	}
	return json.MarshalIndent(out, "", "  ")
}

// master collects what each master has for itself.
func (w *writer) master(ctx context.Context, m Master) error {
	config := rest.CopyConfig(w.Config)
	config.Host = (&url.URL{Scheme: "https", Host: m.Address}).String()
	config.Timeout = dialTime // for the first request, which shows whether it can be reached
	dir := "masters/" + filepath.Base(m.Name) + "/"
	if _, err := w.get(ctx, config, "/version"); err != nil {
		return w.put(ctx, dir, nil, fmt.Errorf("it cannot be reached from here: %w", err))
	}
	config.Timeout = 0
	for name, path := range map[string]string{
		"metrics.txt": "/metrics", "goroutines.txt": "/debug/pprof/goroutine?debug=2", "heap.pprof": "/debug/pprof/heap",
		"cpu.pprof": fmt.Sprintf("/debug/pprof/profile?seconds=%d", int(max(w.Profile, time.Second).Seconds())),
	} {
		data, err := w.get(ctx, config, path)
		if err := w.put(ctx, dir+name, data, err); err != nil {
			return err
		}
	}
	return nil
}

// inText finds what looks like a token or a password in a log, which should have none.
var inText = regexp.MustCompile(`(?i)(\bbearer |\bbasic |\btoken["']?\s*[=:]\s*["']?|password["']?\s*[=:]\s*["']?|\bK1)[^\s"',;]+`)

// tail returns the end of a regular file.
func tail(path string) ([]byte, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", path)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if _, err := file.Seek(max(0, info.Size()-maxLog), io.SeekStart); err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(file, maxLog))
}
