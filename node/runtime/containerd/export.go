package containerd

import (
	"context"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/platforms"
)

// ExportImage writes an OCI archive that Docker can read as well. Of an image for several platforms it has the host's.
func (r *Runtime) ExportImage(ctx context.Context, ref string, to io.Writer) error {
	ctx = r.ns(ctx)
	img, err := r.findImage(ctx, ref)
	if err != nil {
		return err
	}
	if err := r.client.Export(ctx, to, archive.WithImage(r.client.ImageService(), img.Name()), archive.WithPlatform(platforms.Default())); err != nil {
		return fmt.Errorf("export image %s: %w", ref, classify(err))
	}
	return nil
}
