package fake

import (
	"context"
	"time"

	"github.com/kontiki/kontiki/node/runtime"
)

// NewHollow creates a runtime for a simulated worker: it has every image, a container takes some time to start, and one whose command is
// none of the built-in ones runs until it is asked to end, with whatever devices. It does not record its calls.
func NewHollow(startDelay time.Duration) *Runtime {
	r := New()
	r.hollow, r.startDelay, r.features.Devices = true, startDelay, true
	return r
}

// untilAsked is the program of a hollow container.
func untilAsked(ctx context.Context, p *Process) int {
	select {
	case <-p.signals:
		return 0
	case <-ctx.Done():
		return 137
	}
}

// starting waits as long as a container takes to start.
func (r *Runtime) starting(ctx context.Context) error {
	if r.startDelay == 0 {
		return nil
	}
	timer := time.NewTimer(r.startDelay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// anyImage returns an image of a hollow runtime. The caller holds mu.
func (r *Runtime) anyImage(ref string) runtime.Image {
	i, ok := r.images[ref]
	if !ok {
		i = imageOf(ref)
		r.images[ref] = i
	}
	return i
}
