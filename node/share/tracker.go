package share

import (
	"slices"
	"sync"
	"time"
)

const (
	// fanOut limits how many nodes are given one source that is still pulling, wholeFanOut one that has the whole image, at the same time.
	fanOut, wholeFanOut = 2, 4
	// A node that has said nothing about an image for forgotten is not a source any more. Nodes announce their images every announceEvery.
	forgotten     = 70 * time.Minute
	announceEvery = 30 * time.Minute
	// Bounds of what a tracker keeps. When there are more images, the ones that nobody has spoken of for the longest time are forgotten.
	maxImages   = 4096
	maxHolders  = 256 // for one image: others are told of a source, but are none
	maxAttempts = 3   // sources that a pull tries
	// mistrust is how many nodes must say that a holder failed as their source until it is forgotten.
	mistrust = 2
)

// holder is a node that has an image, or is pulling it.
type holder struct {
	node   string
	whole  bool
	source string // from where it is pulling: another holder, "" for the registry
	heard  time.Time
	failed []string // the nodes for which it has failed as a source, mistrust at most
}

type trackedImage struct {
	holders []holder // in the order in which they began
	heard   time.Time
}

// tracker has the holders of the images that this node tracks. Safe for concurrent use.
type tracker struct {
	now func() time.Time

	mu     sync.Mutex
	images map[string]*trackedImage
}

func newTracker() *tracker { return &tracker{now: time.Now, images: map[string]*trackedImage{}} }

// begin records that a node pulls an image, and returns its source: "" if it should ask the registry. failed are sources that it has tried.
func (t *tracker) begin(image, node string, failed []string) (source string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	tracked := t.image(image, now)
	for i := range tracked.holders {
		h := &tracked.holders[i]
		if slices.Contains(failed, h.node) && !slices.Contains(h.failed, node) && len(h.failed) < mistrust {
			h.failed = append(h.failed, node)
		}
	}
	tracked.holders = slices.DeleteFunc(tracked.holders, func(h holder) bool {
		return h.node == node || now.Sub(h.heard) > forgotten || len(h.failed) >= mistrust
	})
	source = tracked.source(node, failed)
	if len(tracked.holders) < maxHolders {
		tracked.holders = append(tracked.holders, holder{node: node, source: source, heard: now})
	}
	return source
}

// source chooses the source of a node: a holder that serves few others and has not failed, if possible one that has all.
func (i *trackedImage) source(node string, failed []string) (source string) {
	fewest := 0
	for _, whole := range []bool{true, false} {
		limit := fanOut
		if whole {
			limit = wholeFanOut
		}
		for _, h := range i.holders {
			if h.whole != whole || slices.Contains(failed, h.node) || i.dependsOn(h, node) {
				continue
			}
			serves := 0
			for _, other := range i.holders {
				if !other.whole && other.source == h.node {
					serves++
				}
			}
			if serves < limit && (source == "" || serves < fewest) {
				source, fewest = h.node, serves
			}
		}
		if source != "" {
			return source
		}
	}
	return ""
}

// dependsOn says whether a holder waits for a node, through others too.
func (i *trackedImage) dependsOn(h holder, node string) bool {
	for range i.holders {
		if h.whole || h.source == "" {
			return false
		}
		if h.source == node {
			return true
		}
		at := slices.IndexFunc(i.holders, func(o holder) bool { return o.node == h.source })
		if at < 0 {
			return false // it is going to ask again
		}
		h = i.holders[at]
	}
	return true
}

// has records that a node has the whole image.
func (t *tracker) has(image, node string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	tracked := t.image(image, now)
	at := slices.IndexFunc(tracked.holders, func(h holder) bool { return h.node == node })
	if at < 0 {
		if len(tracked.holders) >= maxHolders {
			return
		}
		tracked.holders, at = append(tracked.holders, holder{node: node}), len(tracked.holders)
	}
	tracked.holders[at] = holder{node: node, whole: true, heard: now}
}

// drop records that a node does not pull the image any more and does not have it.
func (t *tracker) drop(image, node string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if tracked := t.images[image]; tracked != nil {
		tracked.holders = slices.DeleteFunc(tracked.holders, func(h holder) bool { return h.node == node })
		if len(tracked.holders) == 0 {
			delete(t.images, image)
		}
	}
}

// image returns what is known of an image, and makes room for it. The caller holds mu.
func (t *tracker) image(image string, now time.Time) *trackedImage {
	tracked := t.images[image]
	if tracked == nil {
		if len(t.images) >= maxImages {
			t.forget(now)
		}
		tracked = &trackedImage{}
		t.images[image] = tracked
	}
	tracked.heard = now
	return tracked
}

// forget removes the images that nobody has spoken of for long, and the oldest one.
func (t *tracker) forget(now time.Time) {
	oldest := ""
	for image, tracked := range t.images {
		if now.Sub(tracked.heard) > forgotten {
			delete(t.images, image)
		} else if oldest == "" || tracked.heard.Before(t.images[oldest].heard) {
			oldest = image
		}
	}
	delete(t.images, oldest)
}
