// Package credentials gets a node's credentials for registries from the programs that its administrator has installed: credential provider
// plugins, as cloud providers have them for kubelets (KEP-2133). Upstream's package for them brings its serving stack, so the protocol is
// spoken here; what a program is asked, what it answers and which images match are upstream's.
package credentials

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubernetes/pkg/credentialprovider"

	kubeletv1 "k8s.io/kubelet/config/v1"
	providerv1 "k8s.io/kubelet/pkg/apis/credentialprovider/v1"
	"sigs.k8s.io/yaml"

	"github.com/kontiki/kontiki/internal/recent"
	"github.com/kontiki/kontiki/node/runtime"
)

const (
	// runTime limits one run of a program (a kubelet's limit).
	runTime = time.Minute
	// maxAnswer limits what a program may write to its output, maxConfig the configuration.
	maxAnswer = 1 << 20
	maxConfig = 1 << 20
	// answersKept limits how many answers of a program are kept.
	answersKept = 1024
)

// Providers are the programs of a node. It is safe for concurrent use.
type Providers struct{ all []*provider }

// provider is one program.
type provider struct {
	kubeletv1.CredentialProvider
	path string
	now  func() time.Time

	mu      sync.Mutex // one run at a time: those that wait find its answer
	answers recent.Cache[string, answer]
}

// answer is what a program has answered.
type answer struct {
	auth  map[string]providerv1.AuthConfig
	until time.Time
}

// Load reads the configuration (kubelet.config.k8s.io/v1, CredentialProviderConfig) and finds its programs in binDir. Without both there are
// no programs. An error names the field that is wrong, or the program that does not exist.
func Load(configFile, binDir string) (*Providers, error) {
	if configFile == "" && binDir == "" {
		return &Providers{}, nil
	}
	if configFile == "" || binDir == "" {
		return nil, errors.New("image-credential-provider-config and image-credential-provider-bin-dir are to be set together")
	}
	f, err := os.Open(configFile)
	if err != nil {
		return nil, fmt.Errorf("image-credential-provider-config: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxConfig))
	if err != nil {
		return nil, fmt.Errorf("image-credential-provider-config: %w", err)
	}
	var config kubeletv1.CredentialProviderConfig
	if err := yaml.UnmarshalStrict(data, &config); err != nil {
		return nil, fmt.Errorf("image-credential-provider-config %s: %w", configFile, err)
	}
	if config.APIVersion != kubeletv1.SchemeGroupVersion.String() || config.Kind != "CredentialProviderConfig" {
		return nil, fmt.Errorf("image-credential-provider-config %s: apiVersion and kind must be %s and CredentialProviderConfig", configFile, kubeletv1.SchemeGroupVersion)
	}
	p := &Providers{}
	for i, c := range config.Providers {
		if err := check(c, config.Providers[:i]); err != nil {
			return nil, fmt.Errorf("image-credential-provider-config %s: providers[%d].%w", configFile, i, err)
		}
		path, err := exec.LookPath(filepath.Join(binDir, c.Name))
		if err != nil {
			return nil, fmt.Errorf("image-credential-provider-config %s: providers[%d].name: %w", configFile, i, err)
		}
		p.all = append(p.all, &provider{CredentialProvider: c, path: path, now: time.Now, answers: recent.Cache[string, answer]{Limit: answersKept}})
	}
	return p, nil
}

// check checks one program's part of the configuration, beside those before it.
func check(c kubeletv1.CredentialProvider, before []kubeletv1.CredentialProvider) error {
	switch {
	case c.Name == "" || c.Name == "." || c.Name == ".." || strings.ContainsAny(c.Name, "/ \t\n"):
		return fmt.Errorf("name: %q is not the name of a file in the directory of the programs", c.Name)
	case slices.ContainsFunc(before, func(b kubeletv1.CredentialProvider) bool { return b.Name == c.Name }):
		return fmt.Errorf("name: %q is there twice", c.Name)
	case c.APIVersion != providerv1.SchemeGroupVersion.String():
		return fmt.Errorf("apiVersion: %q is not supported, it must be %s", c.APIVersion, providerv1.SchemeGroupVersion)
	case len(c.MatchImages) == 0:
		return errors.New("matchImages: at least one is required")
	case c.DefaultCacheDuration == nil || c.DefaultCacheDuration.Duration < 0:
		return errors.New("defaultCacheDuration: it is required, and must not be negative")
	case c.TokenAttributes != nil:
		return errors.New("tokenAttributes: tokens of service accounts are not supported")
	}
	for i, pattern := range c.MatchImages {
		if _, err := credentialprovider.ParseSchemelessURL(pattern); err != nil {
			return fmt.Errorf("matchImages[%d]: %w", i, err)
		}
	}
	return nil
}

// Of returns the credentials for a repository, such as registry.example/app, those of the most specific keys first. It runs the programs whose
// images match unless they have answered lately. A program that fails has none, which is logged.
func (p *Providers) Of(ctx context.Context, repository string) []runtime.Auth {
	var ring credentialprovider.BasicDockerKeyring
	for _, one := range p.all {
		if !matches(one.MatchImages, repository) {
			continue
		}
		auth, err := one.of(ctx, repository)
		if err != nil {
			slog.Warn("a credential provider plugin failed", "plugin", one.Name, "image", repository, "err", err)
			continue
		}
		entries := credentialprovider.DockerConfig{}
		for key, a := range auth {
			entries[key] = credentialprovider.DockerConfigEntry{Username: a.Username, Password: a.Password}
		}
		ring.Add(nil, entries)
	}
	found, _ := ring.Lookup(repository)
	var out []runtime.Auth
	for _, c := range found {
		out = append(out, runtime.Auth{Username: c.Username, Password: c.Password})
	}
	return out
}

func matches(patterns []string, repository string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		ok, err := credentialprovider.URLsMatchStr(pattern, repository)
		return err == nil && ok
	})
}

// The keys of answers for one image, for a registry, and for all images (the cacheKeyType of an answer).
func ofImage(repository string) string { return "image " + repository }
func ofRegistry(repository string) string {
	registry, _, _ := strings.Cut(repository, "/")
	return "registry " + registry
}

const ofAll = "all"

// of returns what the program has for a repository.
func (p *provider) of(ctx context.Context, repository string) (map[string]providerv1.AuthConfig, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, key := range []string{ofImage(repository), ofRegistry(repository), ofAll} {
		if a, ok := p.answers.Get(key); ok && p.now().Before(a.until) {
			return a.auth, nil
		}
	}
	response, err := p.run(ctx, repository)
	if err != nil {
		return nil, err
	}
	key := ""
	switch response.CacheKeyType {
	case providerv1.ImagePluginCacheKeyType:
		key = ofImage(repository)
	case providerv1.RegistryPluginCacheKeyType:
		key = ofRegistry(repository)
	case providerv1.GlobalPluginCacheKeyType:
		key = ofAll
	default:
		return nil, fmt.Errorf("the answer's cacheKeyType is %q, it must be Image, Registry or Global", response.CacheKeyType)
	}
	keep := p.DefaultCacheDuration.Duration
	if response.CacheDuration != nil {
		keep = response.CacheDuration.Duration
	}
	if keep > 0 {
		p.answers.Put(key, answer{auth: response.Auth, until: p.now().Add(keep)}, 1)
	}
	return response.Auth, nil
}

// run runs the program: it reads a CredentialProviderRequest from its input and writes a CredentialProviderResponse to its output.
func (p *provider) run(ctx context.Context, repository string) (*providerv1.CredentialProviderResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, runTime)
	defer cancel()
	kind := metav1.TypeMeta{APIVersion: p.APIVersion, Kind: "CredentialProviderRequest"}
	request, err := yaml.Marshal(providerv1.CredentialProviderRequest{TypeMeta: kind, Image: repository})
	if err == nil {
		request, err = yaml.YAMLToJSON(request)
	}
	if err != nil {
		return nil, err
	}
	var out, problems bounded
	cmd := exec.CommandContext(ctx, p.path, p.Args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(append(request, '\n')), &out, &problems
	cmd.WaitDelay = time.Second // for processes that the program has left with its output
	cmd.Env = os.Environ()
	for _, v := range p.Env {
		cmd.Env = append(cmd.Env, v.Name+"="+v.Value)
	}
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%w: %.1000s", err, problems.String())
	}
	if out.full {
		return nil, fmt.Errorf("the answer has more than %d bytes", maxAnswer)
	}
	var response providerv1.CredentialProviderResponse
	if err := yaml.Unmarshal(out.Bytes(), &response); err != nil {
		return nil, fmt.Errorf("the answer: %w", err)
	}
	if response.APIVersion != p.APIVersion || response.Kind != "CredentialProviderResponse" {
		return nil, fmt.Errorf("the answer is a %s of %s, not a CredentialProviderResponse of %s", response.Kind, response.APIVersion, p.APIVersion)
	}
	return &response, nil
}

// bounded keeps the first maxAnswer bytes that are written to it.
type bounded struct {
	bytes.Buffer
	full bool
}

func (b *bounded) Write(data []byte) (int, error) {
	room := maxAnswer - b.Len()
	if len(data) > room {
		b.full = true
		b.Buffer.Write(data[:room])
		return len(data), nil
	}
	return b.Buffer.Write(data)
}
