package e2e_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestDebugBundleHasNoSecrets: secrets are put wherever people keep them, and looked for in the archive.
func TestDebugBundleHasNoSecrets(t *testing.T) {
	healthy(t)
	ns := namespace(t)
	const seed = "sesame-4711"
	apply(t, in(ns, `
apiVersion: v1
kind: Secret
metadata: {name: in-a-secret, annotations: {example.com/key: sesame-4711}}
stringData: {key: sesame-4711}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: in-a-configmap}
data: {key: sesame-4711}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: in-a-template}
spec:
  replicas: 1
  selector: {matchLabels: {app: a}}
  template:
    metadata: {labels: {app: a}, annotations: {example.com/key: sesame-4711}}
    spec:
      containers:
      - name: c
        image: kontiki/tools:1
        command: [tools, serve]
        env: [{name: KEY, value: sesame-4711}]
        readinessProbe: {httpGet: {port: 8080, httpHeaders: [{name: Authorization, value: sesame-4711}]}}
`))
	path := filepath.Join(t.TempDir(), "bundle.tar.gz")
	out, err := kontiki("debug", "bundle", path, "--profile", "1s")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the archive: %v, %v", info, err)
	}
	files := untar(t, path)
	for name, data := range files {
		for _, form := range []string{seed, base64.StdEncoding.EncodeToString([]byte(seed))} {
			if i := bytes.Index(data, []byte(form)); i >= 0 {
				t.Errorf("%s has a secret: ...%s", name, data[max(0, i-200):min(len(data), i+40)])
			}
		}
	}
	for name, text := range map[string]string{"objects/secrets.json": "in-a-secret", "objects/deployments.apps.json": "in-a-template", "cluster.json": "master-1",
		"timings.json": "/livez", "health-readyz.txt": "readyz check passed", "logs/master-1.log": "level="} {
		if !strings.Contains(string(files[name]), text) {
			t.Errorf("%s has no %q; failures: %s", name, text, files["failures.txt"])
		}
	}
}

// TestShellsComplete: with the names of pods and masters that exist, and with what kubectl offers.
func TestShellsComplete(t *testing.T) {
	healthy(t)
	ns := namespace(t)
	apply(t, in(ns, "apiVersion: v1\nkind: Pod\nmetadata: {name: completed-pod}\nspec: {schedulingGates: [{name: example.com/never}], containers: [{name: c, image: i}]}\n"))
	for line, want := range map[string]string{
		"why -n " + ns + " comp":                 "completed-pod\n",
		"cluster transfer ma":                    "master-2\n",
		"snap":                                   "snapshot\t",
		"kubectl get pods -n " + ns + " compl":   "completed-pod\n",
		"kubectl get persistentvolumecl":         "persistentvolumeclaims",
		"kubectl -n " + ns + " describe pod com": "completed-pod\n",
	} {
		out, err := kontiki(append([]string{"__complete"}, strings.Split(line, " ")...)...)
		if err != nil || !strings.Contains(out, want) {
			t.Errorf("%q is completed with %q, %v", line, out, err)
		}
	}
}

func untar(t *testing.T, path string) map[string][]byte {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	zip, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{}
	for r := tar.NewReader(zip); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		if out[header.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}
