package containerd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"

	client "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"

	"github.com/kontiki/kontiki/node/runtime"
)

// noAnswer is a runtime.ErrRegistryUnreachable with the text of its cause.
type noAnswer struct{ error }

func (e noAnswer) Unwrap() []error { return []error{e.error, runtime.ErrRegistryUnreachable} }

// pullGroup lets concurrent pulls of one image share the work.
type pullGroup struct {
	mu sync.Mutex
	m  map[string]*pull
}

type pull struct {
	done chan struct{}
	img  runtime.Image
	err  error
}

func (r *Runtime) PullImage(ctx context.Context, ref string, auth runtime.Auth) (runtime.Image, error) {
	name, err := normalize(ref)
	if err != nil {
		return runtime.Image{}, err
	}
	// Pulls with different credentials are not shared: one must not profit from the other's.
	key := fmt.Sprintf("%s\x00%q", name, auth)
	r.pulls.mu.Lock()
	if r.pulls.m == nil {
		r.pulls.m = map[string]*pull{}
	}
	p := r.pulls.m[key]
	if p == nil {
		p = &pull{done: make(chan struct{})}
		r.pulls.m[key] = p
		r.wg.Go(func() {
			p.img, p.err = r.pull(r.lifeCtx, name, auth)
			r.pulls.mu.Lock()
			delete(r.pulls.m, key)
			r.pulls.mu.Unlock()
			close(p.done)
		})
	}
	r.pulls.mu.Unlock()
	select {
	case <-p.done:
		return p.img, p.err
	case <-ctx.Done():
		return runtime.Image{}, ctx.Err()
	}
}

func (r *Runtime) pull(ctx context.Context, name string, auth runtime.Auth) (runtime.Image, error) {
	watched := &progress{}
	pctx, stop := watched.watch(ctx, r.pullTimeout)
	defer stop()
	resolver := docker.NewResolver(docker.ResolverOptions{Hosts: r.registryHosts(pctx, auth, watched)})
	img, err := r.client.Pull(pctx, name, client.WithResolver(resolver), client.WithImageHandlerWrapper(r.limits.pulled(r.client.ContentStore())), client.WithPullUnpack, client.WithPullSnapshotter(r.c.Snapshotter))
	if err == nil {
		return r.describe(ctx, img)
	}
	if ctx.Err() == nil {
		if pctx.Err() != nil {
			err = context.Cause(pctx)
		} else if errors.As(err, new(*url.Error)) { // the request got no response
			err = noAnswer{err}
		}
	}
	return runtime.Image{}, fmt.Errorf("failed to pull and unpack image %q: %w", name, classify(err))
}

// registryHosts returns how to reach registries: as the directory of their configuration says (hosts.toml, or certificates as Docker has
// them), otherwise by HTTPS, or HTTP for those of this host and InsecureRegistries.
func (r *Runtime) registryHosts(ctx context.Context, auth runtime.Auth, watched *progress) docker.RegistryHosts {
	credentials := func(string) (string, string, error) {
		if auth.IdentityToken != "" {
			return "", auth.IdentityToken, nil
		}
		return auth.Username, auth.Password, nil
	}
	plain := &http.Client{Transport: watched.around(http.DefaultTransport)}
	byDefault := docker.ConfigureDefaultRegistries(
		docker.WithClient(plain),
		docker.WithAuthorizer(docker.NewDockerAuthorizer(docker.WithAuthClient(plain), docker.WithAuthCreds(credentials))),
		docker.WithPlainHTTP(func(host string) (bool, error) {
			h, _, err := net.SplitHostPort(host)
			if err != nil {
				h = host
			}
			if slices.Contains(r.c.InsecureRegistries, host) {
				return true, nil
			}
			ip := net.ParseIP(h)
			return h == "localhost" || ip != nil && ip.IsLoopback(), nil
		}),
	)
	if r.c.RegistryConfigDir == "" {
		return byDefault
	}
	directory := config.HostDirFromRoot(r.c.RegistryConfigDir)
	configured := config.ConfigureHosts(ctx, config.HostOptions{HostDir: directory, Credentials: credentials, UpdateClient: func(c *http.Client) error {
		next := c.Transport
		if next == nil {
			next = http.DefaultTransport
		}
		c.Transport = watched.around(next)
		return nil
	}})
	return func(host string) ([]docker.RegistryHost, error) {
		dir, err := directory(host)
		if errdefs.IsNotFound(err) || err == nil && dir == "" {
			return byDefault(host)
		}
		var hosts []docker.RegistryHost
		if err == nil {
			err = checkHostsFile(filepath.Join(dir, "hosts.toml"))
		}
		if err == nil {
			hosts, err = configured(host)
		}
		if err != nil {
			return nil, fmt.Errorf("configuration of registry %s: %w", host, err)
		}
		return hosts, nil
	}
}

// checkHostsFile refuses a file that cannot be parsed: containerd would ignore it, and not use the mirrors and certificates in it.
func checkHostsFile(path string) error {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := toml.Unmarshal(b, new(map[string]any)); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
