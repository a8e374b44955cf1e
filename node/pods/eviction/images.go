package eviction

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/kontiki/kontiki/node/runtime"
)

// ImageGC says when unused images are removed. An image that an administrator imported never is: it may not be possible to pull it.
type ImageGC struct {
	// High is the share of the images' disk, in percent, above which images are removed, until Low is reached: those first that were
	// not used for the longest time.
	High, Low int
	// MinAge is how long an image stays after it was first seen.
	MinAge time.Duration
	// MaxAge is how long an unused image stays even if there is room; 0 for ever.
	MaxAge time.Duration
}

// DefaultImageGC is the kubelet's.
var DefaultImageGC = ImageGC{High: 85, Low: 80, MinAge: 2 * time.Minute}

// ImagesPeriod is how often unused images are looked for.
const ImagesPeriod = 5 * time.Minute

// imageUse remembers when images were first seen and last used, by ID.
type imageUse struct {
	mu   sync.Mutex
	seen map[string]time.Time
	used map[string]time.Time
}

// collectImages removes images that are too old, and if the disk is too full, others.
func (g *Guard) collectImages(ctx context.Context) error {
	gc := g.c.Images
	if gc.MaxAge > 0 {
		if err := g.removeImages(ctx, 1<<62, func(unused time.Duration) bool { return unused > gc.MaxAge }); err != nil {
			return err
		}
	}
	room, ok := g.c.Rooms(ctx)[ImageFsAvailable]
	if !ok || room.Capacity <= 0 || gc.High >= 100 {
		return nil
	}
	if used := 100 - int(room.Available*100/room.Capacity); used < gc.High {
		_, err := g.unusedImages(ctx) // remembers which are used now
		return err
	}
	return g.freeImages(ctx, room.Capacity*int64(100-gc.Low)/100-room.Available)
}

// freeImages removes unused images until so many bytes are freed.
func (g *Guard) freeImages(ctx context.Context, bytes int64) error {
	return g.removeImages(ctx, bytes, func(time.Duration) bool { return true })
}

type unusedImage struct {
	runtime.Image
	seen, used time.Time
}

// unusedImages returns the images that no container has, those first that were not used for the longest time.
func (g *Guard) unusedImages(ctx context.Context) ([]unusedImage, error) {
	images, err := g.c.Runtime.ListImages(ctx)
	if err != nil {
		return nil, err
	}
	containers, err := g.c.Runtime.ListContainers(ctx, "")
	if err != nil {
		return nil, err
	}
	inUse := map[string]bool{}
	for _, c := range containers {
		inUse[c.ImageID] = true
	}
	u := &g.images
	u.mu.Lock()
	defer u.mu.Unlock()
	now := time.Now()
	present := map[string]bool{}
	var out []unusedImage
	for _, i := range images {
		present[i.ID] = true
		if u.seen[i.ID].IsZero() {
			u.seen[i.ID] = now
		}
		if inUse[i.ID] {
			u.used[i.ID] = now
			continue
		}
		if !i.Imported {
			out = append(out, unusedImage{i, u.seen[i.ID], u.used[i.ID]})
		}
	}
	for id := range u.seen {
		if !present[id] {
			delete(u.seen, id)
			delete(u.used, id)
		}
	}
	g.c.Present(present)
	slices.SortFunc(out, func(a, b unusedImage) int {
		return cmp.Or(a.used.Compare(b.used), a.seen.Compare(b.seen), cmp.Compare(a.ID, b.ID))
	})
	return out, nil
}

func (g *Guard) removeImages(ctx context.Context, bytes int64, due func(unused time.Duration) bool) error {
	list, err := g.unusedImages(ctx)
	if err != nil {
		return err
	}
	var freed int64
	var errs []error
	now := time.Now()
	for _, i := range list {
		if freed >= bytes {
			break
		}
		last := i.used
		if last.IsZero() {
			last = i.seen
		}
		if now.Sub(i.seen) < g.c.Images.MinAge || !due(now.Sub(last)) {
			continue
		}
		if err := g.c.Runtime.RemoveImage(ctx, i.ID); err != nil {
			errs = append(errs, err)
			continue
		}
		slog.Info("removed an unused image", "image", i.RepoTags, "size", i.Size)
		freed += i.Size
	}
	if freed < bytes && bytes < 1<<62 && len(errs) == 0 {
		errs = append(errs, fmt.Errorf("Failed to garbage collect required amount of images. Attempted to free %d bytes, but only found %d bytes eligible to free.", bytes, freed))
	}
	return errors.Join(errs...)
}
