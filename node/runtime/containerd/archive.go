package containerd

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"sync/atomic"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	imagearchive "github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kontiki/kontiki/internal/contain"
	"github.com/kontiki/kontiki/node/runtime"
)

// imageLimits bound the cost of importing an archive and of pulling an image. Neither the sender nor the registry is trusted.
type imageLimits struct {
	// bytes limits the archive's size after gzip decompression, and the total size of its files, which is larger if they are
	// sparse.
	bytes int64
	// entries limits the files in the archive, each of which is a write to the content store, and the descriptors that an image's
	// documents refer to. names limits the total length of the files' names in bytes.
	entries, names int
	// document limits the size in bytes of an index, manifest or configuration, each of which is read into memory.
	document int64
	images   int // in an archive
}

var defaultLimits = imageLimits{bytes: 32 << 30, entries: 50000, names: 16 << 20, document: 20 << 20, images: 200}

func (r *Runtime) ImportImage(ctx context.Context, archive io.Reader) ([]runtime.Image, error) {
	ctx = r.ns(ctx)
	br := bufio.NewReader(archive)
	archive = br
	if magic, _ := br.Peek(2); len(magic) == 2 && magic[0] == 0x1f && magic[1] == 0x8b {
		gz, err := gzip.NewReader(br)
		if err != nil {
			return nil, fmt.Errorf("import image: %w", err)
		}
		defer gz.Close()
		archive = gz
	}
	list, err := r.importArchive(ctx, archive)
	if err != nil {
		return nil, fmt.Errorf("import image: %w", classify(err))
	}
	var out []runtime.Image
	for _, m := range list {
		img := client.NewImageWithPlatform(r.client, m, platforms.Default())
		if err := r.unpack(ctx, img); err != nil {
			return nil, err
		}
		one, err := r.describe(ctx, img)
		if err != nil {
			return nil, err
		}
		out = append(out, one)
	}
	return out, nil
}

// importArchive is containerd's client.Import with limits. An archive that exceeds them is refused before an image is recorded, and
// the content written until then is garbage collected.
func (r *Runtime) importArchive(ctx context.Context, archive io.Reader) ([]images.Image, error) {
	limits := r.limits
	ctx, done, err := r.client.WithLease(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = done(ctx) }() // it expires by itself
	store := documents{r.client.ContentStore(), limits.document}
	checked, stop := limits.check(archive)
	index, err := imagearchive.ImportIndex(ctx, store, checked)
	stop()
	if err != nil {
		return nil, err
	}
	list, err := limits.named(ctx, store, index)
	if err != nil {
		return nil, err
	}
	handler := images.SetChildrenLabels(store, images.FilterPlatforms(limits.children(store), platforms.Default()))
	if err := images.WalkNotEmpty(ctx, handler, index); err != nil {
		return nil, err
	}
	for i := range list {
		stored, err := r.client.ImageService().Update(ctx, list[i], "target", "labels")
		if errdefs.IsNotFound(err) {
			stored, err = r.client.ImageService().Create(ctx, list[i])
		}
		if err != nil {
			return nil, err
		}
		list[i] = stored
	}
	return list, nil
}

// check returns a reader of the same bytes that fails where the archive exceeds a limit. A parser of the same kind as containerd's
// reads every byte before the returned reader does. stop must be called after the last read.
func (l imageLimits) check(archive io.Reader) (checked io.Reader, stop func()) {
	archive = newBounded(archive, l.bytes)
	checkedEnd, ours := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		err := contain.Run(func() error {
			if err := l.checkEntries(tar.NewReader(io.TeeReader(archive, ours))); err != nil {
				return err
			}
			_, err := io.Copy(ours, archive) // the bytes after the end of the archive, in case the reader reads them
			return err
		})
		ours.CloseWithError(err)
	}()
	return checkedEnd, func() {
		checkedEnd.Close()
		<-done
	}
}

func (l imageLimits) checkEntries(archive *tar.Reader) error {
	names, content := 0, int64(0)
	for entries := 1; ; entries++ {
		header, err := archive.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		names += len(header.Name) + len(header.Linkname)
		switch {
		case entries > l.entries:
			return fmt.Errorf("it has more than %d entries", l.entries)
		case names > l.names:
			return fmt.Errorf("the names of its entries have more than %d bytes", l.names)
		case header.Size > l.bytes-content:
			return errTooLarge{l.bytes}
		}
		content += header.Size
		switch name := path.Clean(header.Name); name {
		case ocispec.ImageLayoutFile, ocispec.ImageIndexFile, "manifest.json":
			if header.Size > l.document {
				return fmt.Errorf("its %s has more than %d bytes", name, l.document)
			}
		}
	}
}

// named returns the images that an archive's index names.
func (l imageLimits) named(ctx context.Context, store content.Store, index ocispec.Descriptor) ([]images.Image, error) {
	document, err := content.ReadBlob(ctx, store, index)
	if err != nil {
		return nil, err
	}
	var parsed ocispec.Index
	if err := json.Unmarshal(document, &parsed); err != nil {
		return nil, err
	}
	var list []images.Image
	for _, manifest := range parsed.Manifests {
		name := manifest.Annotations[images.AnnotationImageName]
		if name == "" {
			// A name that is not a reference, such as a tag alone, is ignored.
			name, _ = normalize(manifest.Annotations[ocispec.AnnotationRefName])
		}
		if name != "" {
			list = append(list, images.Image{Name: name, Target: manifest, Labels: map[string]string{importedLabel: "true"}})
		}
	}
	switch {
	case len(list) == 0:
		return nil, errors.New("the archive names no image")
	case len(list) > l.images:
		return nil, fmt.Errorf("the archive names %d images, more than %d", len(list), l.images)
	}
	return list, nil
}

// children is images.Children for documents within the limits. It also limits the number of descriptors: an index can name one
// several times.
func (l imageLimits) children(store content.Store) images.HandlerFunc {
	visited := 0
	return func(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		if visited++; visited > l.entries {
			return nil, l.errManyDescriptors()
		}
		children, err := images.Children(ctx, store, desc)
		if err == nil && images.IsManifestType(desc.MediaType) && len(children) > 0 {
			// The configuration is read later, whatever its media type is.
			var info content.Info
			if info, err = store.Info(ctx, children[0].Digest); err == nil && info.Size > l.document {
				err = errLargeDocument(children[0], l.document)
			}
		}
		return children, err
	}
}

// pulled refuses documents that are too large before they are fetched. A descriptor's size is reliable: fetching content of another
// size fails.
func (l imageLimits) pulled(next images.Handler) images.Handler {
	var found atomic.Int64
	return images.HandlerFunc(func(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		manifest := images.IsManifestType(desc.MediaType)
		if (manifest || images.IsIndexType(desc.MediaType)) && desc.Size > l.document {
			return nil, errLargeDocument(desc, l.document)
		}
		children, err := next.Handle(ctx, desc)
		switch {
		case err != nil:
		case manifest && len(children) > 0 && children[0].Size > l.document: // the configuration, whatever its media type is
			err = errLargeDocument(children[0], l.document)
		case found.Add(int64(len(children))) > int64(l.entries):
			err = l.errManyDescriptors()
		}
		return children, err
	})
}

// documents is a content store that refuses to read an index, manifest or configuration too large for memory.
type documents struct {
	content.Store
	limit int64
}

// ReaderAt implements content.Provider.
func (d documents) ReaderAt(ctx context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	reader, err := d.Store.ReaderAt(ctx, desc)
	document := images.IsIndexType(desc.MediaType) || images.IsManifestType(desc.MediaType) || images.IsConfigType(desc.MediaType)
	if err == nil && document && reader.Size() > d.limit {
		reader.Close()
		return nil, errLargeDocument(desc, d.limit)
	}
	return reader, err
}

func (l imageLimits) errManyDescriptors() error {
	return fmt.Errorf("its documents lead to more than %d descriptors", l.entries)
}

func errLargeDocument(desc ocispec.Descriptor, limit int64) error {
	return fmt.Errorf("its document %s has more than %d bytes", desc.Digest, limit)
}
