package containerd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	client "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"

	"github.com/kontiki/kontiki/node/runtime"
)

// normalize returns the complete reference: "busybox" becomes "docker.io/library/busybox:latest".
func normalize(ref string) (string, error) {
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return "", fmt.Errorf("%w: couldn't parse image name %q: %w", runtime.ErrInvalidImageName, ref, err)
	}
	return named.String(), nil
}

// findImage finds an image by reference, or by the digest of its configuration.
func (r *Runtime) findImage(ctx context.Context, ref string) (client.Image, error) {
	if strings.HasPrefix(ref, "sha256:") {
		list, err := r.client.ListImages(ctx)
		if err != nil {
			return nil, classify(err)
		}
		for _, img := range list {
			if d, err := img.Config(ctx); err == nil && d.Digest.String() == ref {
				return img, nil
			}
		}
		return nil, fmt.Errorf("image %s: %w", ref, runtime.ErrNotFound)
	}
	name, err := normalize(ref)
	if err != nil {
		return nil, err
	}
	img, err := r.client.GetImage(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", ref, classify(err))
	}
	// Ignore a record without its content, which an interrupted import may leave. An image that was complete once stays complete.
	if _, whole := r.whole.Load(img.Target().Digest); whole {
		return img, nil
	}
	ok, _, _, missing, err := images.Check(ctx, r.client.ContentStore(), img.Target(), img.Platform())
	if err != nil && !errdefs.IsNotFound(err) {
		return nil, fmt.Errorf("image %s: %w", ref, classify(err))
	}
	if err != nil || !ok || len(missing) > 0 {
		return nil, fmt.Errorf("image %s is incomplete: %w", ref, runtime.ErrNotFound)
	}
	r.whole.Store(img.Target().Digest, true)
	return img, nil
}

// unpack creates the image's snapshots, once.
func (r *Runtime) unpack(ctx context.Context, img client.Image) error {
	if ok, err := img.IsUnpacked(ctx, r.c.Snapshotter); err == nil && ok {
		return nil
	}
	unlock := r.lock("unpack/" + img.Target().Digest.String())
	defer unlock()
	ctx, release, err := r.hold(ctx)
	if err != nil {
		return err
	}
	defer release()
	if err := img.Unpack(ctx, r.c.Snapshotter); err != nil {
		return fmt.Errorf("unpack image %s: %w", img.Name(), classify(err))
	}
	return nil
}

// imageIdentity returns the ID (digest of the configuration) and the reference for a container's status.
func (r *Runtime) imageIdentity(ctx context.Context, img client.Image) (id, ref string, err error) {
	d, err := img.Config(ctx)
	if err != nil {
		return "", "", fmt.Errorf("read image %s: %w", img.Name(), classify(err))
	}
	id = d.Digest.String()
	ref = id
	if rd := repoDigest(img); rd != "" {
		ref = rd
	}
	return id, ref, nil
}

func repoDigest(img client.Image) string {
	named, err := reference.ParseDockerRef(img.Name())
	if err != nil {
		return ""
	}
	return reference.TrimNamed(named).String() + "@" + img.Target().Digest.String()
}

func (r *Runtime) GetImage(ctx context.Context, ref string) (runtime.Image, error) {
	ctx = r.ns(ctx)
	img, err := r.findImage(ctx, ref)
	if err != nil {
		return runtime.Image{}, err
	}
	out, err := r.describe(ctx, img)
	if err != nil {
		return runtime.Image{}, err
	}
	return out, nil
}

// describe reads an image's metadata, once: the content of a manifest digest does not change.
func (r *Runtime) describe(ctx context.Context, img client.Image) (runtime.Image, error) {
	digest := img.Target().Digest
	if known, ok := r.described.Load(digest); ok {
		out := known.(runtime.Image)
		addNames(&out, img)
		return out, nil
	}
	id, _, err := r.imageIdentity(ctx, img)
	if err != nil {
		return runtime.Image{}, err
	}
	out := runtime.Image{ID: id}
	spec, err := img.Spec(ctx)
	if err != nil {
		return runtime.Image{}, fmt.Errorf("read image %s: %w", img.Name(), classify(err))
	}
	out.User, out.StopSignal = spec.Config.User, spec.Config.StopSignal
	if out.Size, err = img.Size(ctx); err != nil {
		return runtime.Image{}, fmt.Errorf("read image %s: %w", img.Name(), classify(err))
	}
	r.described.Store(digest, out)
	addNames(&out, img)
	return out, nil
}

// importedLabel marks images from imported archives. A pull replaces an image's record, without the label.
const importedLabel = "kontiki/imported"

func addNames(out *runtime.Image, img client.Image) {
	if _, imported := img.Labels()[importedLabel]; imported {
		out.Imported = true
	}
	named, err := reference.ParseDockerRef(img.Name())
	if err != nil {
		return
	}
	if _, ok := named.(reference.Tagged); ok && !slices.Contains(out.RepoTags, named.String()) {
		out.RepoTags = append(out.RepoTags, named.String())
	}
	if rd := repoDigest(img); !slices.Contains(out.RepoDigests, rd) {
		out.RepoDigests = append(out.RepoDigests, rd)
	}
}

func (r *Runtime) ListImages(ctx context.Context) ([]runtime.Image, error) {
	ctx = r.ns(ctx)
	list, err := r.client.ListImages(ctx)
	if err != nil {
		return nil, classify(err)
	}
	byID := map[string]*runtime.Image{}
	var order []string
	for _, img := range list {
		one, err := r.describe(ctx, img)
		if err != nil {
			continue // incomplete, or for another platform
		}
		if known := byID[one.ID]; known != nil {
			addNames(known, img)
			continue
		}
		byID[one.ID] = &one
		order = append(order, one.ID)
	}
	out := make([]runtime.Image, 0, len(order))
	for _, id := range order {
		out = append(out, *byID[id])
	}
	return out, nil
}

func (r *Runtime) RemoveImage(ctx context.Context, ref string) error {
	ctx = r.ns(ctx)
	img, err := r.findImage(ctx, ref)
	if errors.Is(err, runtime.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	want, err := img.Config(ctx)
	if err != nil {
		return classify(err)
	}
	list, err := r.client.ListImages(ctx)
	if err != nil {
		return classify(err)
	}
	r.whole.Clear()
	r.described.Clear()
	for _, i := range list {
		if d, err := i.Config(ctx); err == nil && d.Digest == want.Digest {
			if err := r.client.ImageService().Delete(ctx, i.Name(), images.SynchronousDelete()); err != nil && !errdefs.IsNotFound(err) {
				return classify(err)
			}
		}
	}
	return nil
}

// ImageRoot returns the snapshotter's directory.
func (r *Runtime) ImageRoot(ctx context.Context) (string, error) {
	list, err := r.client.IntrospectionService().Plugins(r.ns(ctx), fmt.Sprintf("type==io.containerd.snapshotter.v1,id==%s", r.c.Snapshotter))
	if err != nil {
		return "", classify(err)
	}
	for _, p := range list.Plugins {
		if root := p.Exports["root"]; root != "" {
			return root, nil
		}
	}
	return "", fmt.Errorf("containerd does not say where the snapshotter %s has its files", r.c.Snapshotter)
}
