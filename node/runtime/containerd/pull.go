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
	"github.com/containerd/containerd/v2/core/images"
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
	img, err := r.fetch(pctx, name, auth, watched)
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

// fetch asks the registry what an image's name stands for, and gets that from peers and the registry.
func (r *Runtime) fetch(ctx context.Context, name string, auth runtime.Auth, watched *progress) (client.Image, error) {
	ctx, release, err := r.hold(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	options := []client.RemoteOpt{client.WithPullUnpack, client.WithPullSnapshotter(r.c.Snapshotter)}
	checked := r.limits.pulled(r.client.ContentStore())
	if r.c.Peers == nil {
		return r.client.Pull(ctx, name, append(options, client.WithResolver(docker.NewResolver(docker.ResolverOptions{Hosts: r.registryHosts(ctx, auth, watched.around)})), client.WithImageHandlerWrapper(checked))...)
	}
	peers := &peerPull{}
	registries := r.registryHosts(ctx, auth, func(next http.RoundTripper) http.RoundTripper { return peers.around(watched.around(next)) })
	resolver := docker.NewResolver(docker.ResolverOptions{Hosts: peers.before(registries)})
	found, desc, err := resolver.Resolve(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("failed to resolve reference %q: %w", name, err)
	}
	peers.PeerPull = r.c.Peers.Begin(ctx, desc.Digest)
	peers.sizes.Store(desc.Digest, desc.Size)
	options = append(options, client.WithResolver(resolved{resolver, found, desc}), client.WithImageHandlerWrapper(func(next images.Handler) images.Handler { return checked(peers.handler(next)) }))
	img, err := r.client.Pull(ctx, name, options...)
	if err != nil && ctx.Err() == nil && r.forgetBroken(ctx, peers) {
		img, err = r.client.Pull(ctx, name, options...)
	}
	peers.End(context.WithoutCancel(ctx), err == nil)
	return img, err
}

// registryHosts returns how to reach registries: as the directory of their configuration says (hosts.toml, or certificates as Docker has
// them), otherwise by HTTPS, or HTTP for those of this host and InsecureRegistries. around is put
// around each transport.
func (r *Runtime) registryHosts(ctx context.Context, auth runtime.Auth, around func(http.RoundTripper) http.RoundTripper) docker.RegistryHosts {
	credentials := func(string) (string, string, error) {
		if auth.IdentityToken != "" {
			return "", auth.IdentityToken, nil
		}
		return auth.Username, auth.Password, nil
	}
	plain := &http.Client{Transport: around(http.DefaultTransport)}
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
		c.Transport = around(next)
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
