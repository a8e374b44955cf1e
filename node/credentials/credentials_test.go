package credentials

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kontiki/kontiki/node/runtime"
)

func write(t *testing.T, path, content string, mode os.FileMode) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

const configuration = `apiVersion: kubelet.config.k8s.io/v1
kind: CredentialProviderConfig
providers:
- name: cloud
  apiVersion: credentialprovider.kubelet.k8s.io/v1
  matchImages: ["*.cloud.example"]
  defaultCacheDuration: 10m
  args: [get]
  env: [{name: WHO, value: node}]
`

// installed returns the program "cloud" with what it does after its question is noted, and a function that returns the questions.
func installed(t *testing.T, script string) (*Providers, func() []string) {
	t.Helper()
	dir := t.TempDir()
	asked := filepath.Join(dir, "asked")
	write(t, filepath.Join(dir, "cloud"), "#!/bin/sh\nread request\necho \"$1 $WHO $request\" >> "+asked+"\n"+script, 0o755)
	p, err := Load(write(t, filepath.Join(dir, "config.yaml"), configuration, 0o600), dir)
	if err != nil {
		t.Fatal(err)
	}
	return p, func() []string {
		b, err := os.ReadFile(asked)
		if err != nil {
			return nil
		}
		return strings.Split(strings.TrimSpace(string(b)), "\n")
	}
}

const response = `echo '{"apiVersion":"credentialprovider.kubelet.k8s.io/v1","kind":"CredentialProviderResponse","cacheKeyType":"KEY","auth":{"a.cloud.example":{"username":"u","password":"p"}}}'
`

// TestAProgramIsAskedForImagesThatMatch, with what the configuration says, and its answer is kept for as long as it says.
func TestAProgramIsAskedForImagesThatMatch(t *testing.T) {
	for kind, questions := range map[string]int{"Image": 3, "Registry": 2, "Global": 2} {
		t.Run(kind, func(t *testing.T) {
			p, asked := installed(t, strings.Replace(response, "KEY", kind, 1))
			now := time.Now()
			p.all[0].now = func() time.Time { return now }
			has := func(repository string) {
				t.Helper()
				if got := p.Of(t.Context(), repository); len(got) != 1 || got[0] != (runtime.Auth{Username: "u", Password: "p"}) {
					t.Errorf("credentials for %s: %+v", repository, got)
				}
			}
			has("a.cloud.example/app")
			has("a.cloud.example/app")
			has("a.cloud.example/other")
			if got := p.Of(t.Context(), "registry.example/app"); len(got) != 0 {
				t.Errorf("credentials for another registry: %v", got)
			}
			now = now.Add(10 * time.Minute)
			has("a.cloud.example/app")
			got := asked()
			if len(got) != questions || !strings.HasPrefix(got[0], "get node {") || !strings.Contains(got[0], `"image":"a.cloud.example/app"`) ||
				!strings.Contains(got[0], `"kind":"CredentialProviderRequest"`) {
				t.Errorf("asked %d times, want %d: %q", len(got), questions, got)
			}
		})
	}
}

// TestAProgramThatFailsHasNoCredentials, and is asked again for the next pod.
func TestAProgramThatFailsHasNoCredentials(t *testing.T) {
	for name, script := range map[string]string{
		"it fails":        "echo no >&2\nexit 1\n",
		"it says nothing": "",
		"another kind":    strings.Replace(response, "CredentialProviderResponse", "Pod", 1),
		"another key":     response,
		"no end":          "head -c 3000000 /dev/zero\n",
	} {
		p, asked := installed(t, script)
		for range 2 {
			if got := p.Of(t.Context(), "a.cloud.example/app"); len(got) != 0 {
				t.Errorf("%s: %v", name, got)
			}
		}
		if got := asked(); len(got) != 2 {
			t.Errorf("%s: asked %q", name, got)
		}
	}
}

func TestTheConfigurationIsChecked(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "cloud"), "#!/bin/sh\n", 0o755)
	for want, change := range map[string]func(string) string{
		`unknown field "matchImage"`:             func(c string) string { return strings.Replace(c, "matchImages", "matchImage", 1) },
		"apiVersion and kind must be":            func(c string) string { return strings.Replace(c, "config.k8s.io/v1", "config.k8s.io/v9", 1) },
		"providers[0].matchImages: at least one": func(c string) string { return strings.Replace(c, `["*.cloud.example"]`, "[]", 1) },
		`providers[0].name: "../cloud" is not`:   func(c string) string { return strings.Replace(c, "name: cloud", "name: ../cloud", 1) },
		"providers[0].name: exec:":               func(c string) string { return strings.Replace(c, "name: cloud", "name: other", 1) },
		"providers[0].apiVersion:": func(c string) string {
			return strings.Replace(c, "kubelet.k8s.io/v1\n  match", "kubelet.k8s.io/v1alpha1\n  match", 1)
		},
		"providers[0].defaultCacheDuration": func(c string) string { return strings.Replace(c, "10m", "-10m", 1) },
		"providers[0].tokenAttributes: tokens": func(c string) string {
			return c + "  tokenAttributes: {serviceAccountTokenAudience: a, requireServiceAccount: true, cacheType: Token}\n"
		},
		`providers[1].name: "cloud" is there twice`: func(c string) string { return c + strings.SplitAfter(c, "providers:\n")[1] },
	} {
		if _, err := Load(write(t, filepath.Join(dir, "config.yaml"), change(configuration), 0o600), dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %s: %v", want, err)
		}
	}
	for _, x := range [][2]string{{filepath.Join(dir, "none"), dir}, {"", dir}, {filepath.Join(dir, "config.yaml"), ""}} {
		if _, err := Load(x[0], x[1]); err == nil {
			t.Errorf("%q was read", x)
		}
	}
	if p, err := Load("", ""); err != nil || len(p.Of(t.Context(), "a.cloud.example/app")) != 0 {
		t.Errorf("without a configuration: %v", err)
	}
}
