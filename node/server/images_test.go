package server

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/kontiki/kontiki/node/runtime"
	"github.com/kontiki/kontiki/node/runtime/fake"
)

func TestImagesOfANode(t *testing.T) {
	rt := fake.New("docker.io/test/used:1", "docker.io/test/idle:1")
	rt.Provide("docker.io/test/far:1")
	box := runtime.SandboxConfig{UID: "u", Namespace: "ns", Name: "web"}
	if _, err := rt.EnsureSandbox(t.Context(), box); err != nil {
		t.Fatal(err)
	}
	if _, err := rt.CreateContainer(t.Context(), runtime.ContainerConfig{Sandbox: box, Name: "c", Image: "docker.io/test/used:1", Command: []string{"true"}}); err != nil {
		t.Fatal(err)
	}
	s := New(Config{Pods: &podSet{}, Runtime: rt})
	mux := http.NewServeMux()
	mux.HandleFunc("GET /kontiki/images", s.listImages)
	mux.HandleFunc("DELETE /kontiki/images", s.removeImage)
	mux.HandleFunc("POST /kontiki/images/pull", s.pullImage)
	mux.HandleFunc("GET /kontiki/images/archive", s.exportImage)
	web := httptest.NewServer(mux)
	defer web.Close()
	do := func(method, path, image string) (int, string) {
		t.Helper()
		req, err := http.NewRequest(method, web.URL+path+"?image="+url.QueryEscape(image), nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, strings.TrimSpace(string(b))
	}
	for _, c := range []struct {
		method, path, image string
		code                int
		text                string
	}{
		{"POST", "/kontiki/images/pull", "docker.io/test/far:1", 200, "docker.io/test/far:1"},
		{"POST", "/kontiki/images/pull", "docker.io/test/none:1", 500, "not found"},
		{"DELETE", "/kontiki/images", "docker.io/test/used:1", 409, "image docker.io/test/used:1 is used by the pods ns/web"},
		{"DELETE", "/kontiki/images", "docker.io/test/none:1", 404, "not found"},
		{"DELETE", "/kontiki/images", "NOT AN IMAGE", 400, "couldn't parse image name"},
		{"DELETE", "/kontiki/images", "docker.io/test/idle:1", 200, "docker.io/test/idle:1"},
		{"GET", "/kontiki/images/archive", "docker.io/test/used:1", 200, "docker.io/test/used:1"},
		{"GET", "/kontiki/images/archive", "docker.io/test/idle:1", 404, "not found"},
	} {
		if code, text := do(c.method, c.path, c.image); code != c.code || !strings.Contains(text, c.text) {
			t.Errorf("%s %s of %s: %d %s", c.method, c.path, c.image, code, text)
		}
	}
	var list []LocalImage
	if _, text := do("GET", "/kontiki/images", ""); json.Unmarshal([]byte(text), &list) != nil || len(list) != 2 {
		t.Errorf("left are %s", text)
	}
}
