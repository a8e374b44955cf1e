package containerd

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"sync"
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
	// elements limits the JSON values in one of these: an empty object of two bytes becomes a descriptor of more than a hundred.
	elements int
	images   int // in an archive
}

var defaultLimits = imageLimits{bytes: 32 << 30, entries: 50000, names: 16 << 20, document: 4 << 20, elements: 20000, images: 200}

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
	ctx, release, err := r.hold(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	store := r.client.ContentStore() // see documents
	checked, stop := limits.check(archive)
	index, err := imagearchive.ImportIndex(ctx, store, checked)
	stop()
	if errors.Is(err, tar.ErrHeader) {
		err = errNotArchive(err)
	}
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
	for _, image := range list { // which may be for another platform and so not walked
		config, err := images.Config(ctx, store, image.Target, platforms.Default())
		if err != nil {
			return nil, err
		}
		if err := errors.Join(checkConfig(ctx, store, config), limits.checkEmbedded([]ocispec.Descriptor{config})); err != nil {
			return nil, err
		}
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
		if entries == 1 && errors.Is(err, io.ErrUnexpectedEOF) { // it is shorter than a header
			return errNotArchive(err)
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
			if err := l.checkElements(archive); err != nil {
				return fmt.Errorf("its %s %w", name, err)
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
	if err := l.checkEmbedded(parsed.Manifests); err != nil {
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
		if err == nil {
			err = l.checkEmbedded(children)
		}
		if err == nil && images.IsManifestType(desc.MediaType) && len(children) > 0 {
			err = checkConfig(ctx, store, children[0])
		}
		return children, err
	}
}

// pulled refuses documents that are too large before they are fetched. A descriptor's size is reliable: fetching content of another
// size fails. The store is a documents, which refuses those of too many elements before they are parsed.
func (l imageLimits) pulled(store content.Provider) func(images.Handler) images.Handler {
	return func(next images.Handler) images.Handler {
		var found atomic.Int64
		var configs sync.Map // by digest
		return images.HandlerFunc(func(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
			manifest := images.IsManifestType(desc.MediaType)
			if (manifest || images.IsIndexType(desc.MediaType)) && desc.Size > l.document {
				return nil, errLargeDocument(desc, l.document)
			}
			children, err := next.Handle(ctx, desc)
			if err != nil {
				return nil, err
			}
			if found.Add(int64(len(children))) > int64(l.entries) {
				return nil, l.errManyDescriptors()
			}
			if manifest && len(children) > 0 { // the first one is the configuration, whatever its media type is
				config := children[0]
				if config.Size > l.document {
					return nil, errLargeDocument(config, l.document)
				}
				if images.IsLayerType(config.MediaType) { // this handler would not see it: the unpacker fetches layers
					return nil, fmt.Errorf("its configuration %s has the media type of a layer, %s", config.Digest, config.MediaType)
				}
				configs.Store(config.Digest, true)
			}
			if _, ok := configs.Load(desc.Digest); ok { // it is fetched now
				if err := checkConfig(ctx, store, desc); err != nil {
					return nil, err
				}
			}
			return children, l.checkEmbedded(children)
		})
	}
}

// checkConfig checks a configuration, which is read later whatever its media type is. The store is a documents.
func checkConfig(ctx context.Context, store content.Provider, config ocispec.Descriptor) error {
	config.MediaType = ocispec.MediaTypeImageConfig
	reader, err := store.ReaderAt(ctx, config)
	if err != nil {
		return err
	}
	return reader.Close()
}

// documents is a content store that refuses to read an index, manifest or configuration too large for memory. The client reads all
// content through it: content that was stored as a layer can be named as a manifest later.
type documents struct {
	content.Store
	limits *imageLimits
}

// ReaderAt implements content.Provider.
func (d *documents) ReaderAt(ctx context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	reader, err := d.Store.ReaderAt(ctx, desc)
	if err != nil || !isDocument(desc.MediaType) {
		return reader, err
	}
	if reader.Size() > d.limits.document {
		err = errLargeDocument(desc, d.limits.document)
	} else if err = d.limits.checkElements(content.NewReader(reader)); err != nil {
		err = fmt.Errorf("its document %s %w", desc.Digest, err)
	}
	if err != nil {
		reader.Close()
		return nil, err
	}
	return reader, nil
}

func isDocument(mediaType string) bool {
	return images.IsIndexType(mediaType) || images.IsManifestType(mediaType) || images.IsConfigType(mediaType)
}

// checkEmbedded checks content in descriptors, which is read in place of what is stored.
func (l imageLimits) checkEmbedded(list []ocispec.Descriptor) error {
	for _, desc := range list {
		if err := l.checkElements(bytes.NewReader(desc.Data)); err != nil {
			return fmt.Errorf("its document %s %w", desc.Digest, err)
		}
	}
	return nil
}

// maxNesting limits the depth of JSON documents. An image's have a depth of less than ten.
const maxNesting = 32

// checkElements refuses a JSON document of too many values before it is parsed, in constant memory. Each value is the first one of
// an object or array or follows a comma; a pair in an object counts once. Text that is not JSON is left to the parser, which
// checks all of it before it allocates values.
func (l imageLimits) checkElements(document io.Reader) error {
	elements, depth := 0, 0
	quoted, escaped := false, false
	buf := make([]byte, 16<<10)
	for {
		n, err := document.Read(buf)
		for _, c := range buf[:n] {
			switch {
			case escaped:
				escaped = false
			case quoted:
				quoted, escaped = c != '"', c == '\\'
			case c == '"':
				quoted = true
			case c == '{', c == '[':
				elements++
				depth++
			case c == '}', c == ']':
				depth--
			case c == ',':
				elements++
			}
			if depth > maxNesting {
				return fmt.Errorf("is nested more than %d levels deep", maxNesting)
			}
		}
		if elements > l.elements {
			return fmt.Errorf("has more than %d elements", l.elements)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot be read: %w", err)
		}
	}
}

func errNotArchive(err error) error { return fmt.Errorf("not an image archive (tar): %w", err) }

func (l imageLimits) errManyDescriptors() error {
	return fmt.Errorf("its documents lead to more than %d descriptors", l.entries)
}

func errLargeDocument(desc ocispec.Descriptor, limit int64) error {
	return fmt.Errorf("its document %s has more than %d bytes", desc.Digest, limit)
}
