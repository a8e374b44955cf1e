package fake

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strings"

	"github.com/kontiki/kontiki/node/runtime"
)

var validRef = regexp.MustCompile(`^[a-z0-9][a-z0-9._:/@-]*$`)

// image returns an image. The caller holds mu.
func (r *Runtime) image(ref string) (runtime.Image, error) {
	if !validRef.MatchString(ref) {
		return runtime.Image{}, fmt.Errorf("%w: couldn't parse image name %q", runtime.ErrInvalidImageName, ref)
	}
	if i, ok := r.images[ref]; ok {
		return i, nil
	}
	if r.hollow {
		return r.anyImage(ref), nil
	}
	for _, i := range r.images {
		if i.ID == ref {
			return i, nil
		}
	}
	return runtime.Image{}, fmt.Errorf("image %s: %w", ref, runtime.ErrNotFound)
}

func (r *Runtime) GetImage(ctx context.Context, ref string) (runtime.Image, error) {
	if err := r.enter(ctx, "GetImage", ref); err != nil {
		return runtime.Image{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.image(ref)
}

func (r *Runtime) PullImage(ctx context.Context, ref string, auth runtime.Auth) (runtime.Image, error) {
	if err := r.enter(ctx, "PullImage", ref); err != nil {
		return runtime.Image{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.hollow {
		return r.image(ref)
	}
	i, ok := r.pullable[ref]
	if !ok {
		return runtime.Image{}, fmt.Errorf("failed to pull and unpack image %q: not found", ref)
	}
	if want, private := r.passwords[ref]; private && auth.Password != want {
		return runtime.Image{}, fmt.Errorf("failed to pull and unpack image %q: 401 Unauthorized", ref)
	}
	r.images[ref] = i
	return i, nil
}

// ImportImage reads one reference from the archive, which here is plain text.
func (r *Runtime) ImportImage(ctx context.Context, archive io.Reader) ([]runtime.Image, error) {
	if err := r.enter(ctx, "ImportImage", ""); err != nil {
		return nil, err
	}
	b, err := io.ReadAll(archive)
	if err != nil {
		return nil, err
	}
	ref := strings.TrimSpace(string(b))
	if !validRef.MatchString(ref) {
		return nil, fmt.Errorf("import image: unrecognized image format")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	image := imageOf(ref)
	image.Imported = true
	r.images[ref] = image
	return []runtime.Image{image}, nil
}

func (r *Runtime) ListImages(ctx context.Context) ([]runtime.Image, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []runtime.Image
	for _, i := range r.images {
		out = append(out, i)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].RepoTags[0] < out[j].RepoTags[0] })
	return out, nil
}

// MountImage writes the image's reference to the directory instead of files.
func (r *Runtime) MountImage(ctx context.Context, podUID, ref, target string) error {
	if err := r.enter(ctx, "MountImage", ref); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	img, err := r.image(ref)
	if err != nil {
		return err
	}
	if _, ok := r.sandboxes[podUID]; !ok {
		return fmt.Errorf("sandbox %s: %w", podUID, runtime.ErrNotFound)
	}
	return os.WriteFile(filepath.Join(target, "image"), []byte(img.ID), 0o444)
}

func (r *Runtime) RemoveImage(ctx context.Context, ref string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	i, err := r.image(ref)
	if err != nil {
		return nil
	}
	for k, v := range r.images {
		if v.ID == i.ID {
			delete(r.images, k)
		}
	}
	return nil
}

// ImageRoot implements runtime.Runtime.
func (r *Runtime) ImageRoot(context.Context) (string, error) { return "/", nil }

// ExportImage writes what ImportImage reads.
func (r *Runtime) ExportImage(ctx context.Context, ref string, archive io.Writer) error {
	r.mu.Lock()
	_, err := r.image(ref)
	r.mu.Unlock()
	if err != nil {
		return err
	}
	_, err = io.WriteString(archive, ref)
	return err
}
