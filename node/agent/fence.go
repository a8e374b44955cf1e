package agent

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/internal/volumes"
	"github.com/kontiki/kontiki/node/guard"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

// Guard stops pods when the lease is over, also if this process cannot. See package guard.
type Guard interface {
	Tell(ctx context.Context, s guard.State) error
	Found(ctx context.Context) (guard.State, bool)
}

const (
	// leaseEvery is how often a lease is asked for, and longestAsked how many requests are remembered.
	leaseEvery   = time.Second
	longestAsked = 64
	// fenceTick is how often the clock is looked at.
	fenceTick = 100 * time.Millisecond
)

// fence lets the pods that use volumes for one node at a time run only while this worker has a lease. A lease runs from when it was asked
// for, by a clock that nobody sets and that goes on while the machine sleeps; so the master that granted it was still in contact with the
// others later than the lease's beginning. docs/storage-fencing.md has the whole argument.
type fence struct {
	guard   Guard // nil if there is none: then this worker does not ask for leases, and is never fenced
	now     func() time.Duration
	fenced  func(*corev1.Pod) bool // whether a pod needs a lease
	lapsed  func()                 // called when the lease is over, granted when there is one again
	granted func()

	mu       sync.Mutex
	length   time.Duration // of a lease, by the master of the session; 0 if pods need none
	asked    map[uint64]time.Duration
	number   uint64
	deadline time.Duration
	pods     map[types.UID]bool // those that need a lease; true if the guard knows them
	lastAsk  time.Duration
	free     bool // the cluster did not fence its workers when it was last heard from
	dirty    bool // the guard does not know what is in this struct
	held     bool // what lapsed and granted were last told
}

func newFence(g Guard, fenced func(*corev1.Pod) bool) *fence {
	return &fence{guard: g, now: guard.Now, fenced: fenced, asked: map[uint64]time.Duration{}, pods: map[types.UID]bool{}, held: true}
}

// adopt takes over what an earlier agent's guard holds to. The containers of its pods may be running.
func (f *fence) adopt(ctx context.Context, w *nodev1.Welcome) {
	if f.guard == nil {
		return
	}
	if w != nil {
		f.length = time.Duration(w.LeaseMs) * time.Millisecond
		f.free = f.length == 0
	}
	s, ok := f.guard.Found(ctx)
	if !ok {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.deadline = s.Deadline
	for _, uid := range s.Pods {
		f.pods[types.UID(uid)] = true
	}
}

// welcome takes over the length of leases from a master, at the beginning of a session that this worker began at a time. What was asked for
// in an earlier session is not granted any more. A cluster that has begun to fence its workers has not fenced this one before: a first lease
// runs from that time, so that the pods that are running are not stopped.
func (f *fence) welcome(w *nodev1.Welcome, began time.Duration) {
	if f.guard == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.asked)
	length := time.Duration(w.LeaseMs) * time.Millisecond
	if f.free && length > 0 {
		f.deadline = max(f.deadline, began+length)
	}
	f.length, f.free, f.dirty = length, length == 0, true
}

// askAgain is the time between two requests while there is no lease.
const askAgain = 200 * time.Millisecond

// due returns the number of a request for a lease that is to be sent now; 0 if none is.
func (f *fence) due() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.now()
	every := leaseEvery
	if now >= f.deadline {
		every = askAgain
	}
	if f.length == 0 || len(f.pods) == 0 || now-f.lastAsk < every {
		return 0
	}
	f.number++
	f.lastAsk, f.asked[f.number] = now, now
	delete(f.asked, f.number-longestAsked)
	return f.number
}

// grant takes a lease.
func (f *fence) grant(ctx context.Context, number uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	at, ok := f.asked[number]
	if !ok || at+f.length <= f.deadline {
		return
	}
	maps.DeleteFunc(f.asked, func(n uint64, _ time.Duration) bool { return n <= number })
	f.deadline, f.dirty = at+f.length, true
	f.tell(ctx)
}

// tell makes the guard know. The caller holds mu.
func (f *fence) tell(ctx context.Context) {
	if !f.dirty {
		return
	}
	s := guard.State{Deadline: f.deadline}
	for uid := range f.pods {
		s.Pods = append(s.Pods, string(uid))
	}
	slices.Sort(s.Pods)
	if f.length == 0 {
		s.Pods = nil
	}
	if err := f.guard.Tell(ctx, s); err != nil {
		slog.Warn("the guard of volumes for one node at a time does not answer; their pods are not started", "err", err)
		return
	}
	f.dirty = false
	for uid := range f.pods {
		f.pods[uid] = true
	}
}

// holds says whether nothing of a pod may run now. It makes the guard know a pod before anything of it runs.
func (f *fence) holds(ctx context.Context, pod *corev1.Pod) bool {
	if f.guard == nil {
		return false
	}
	needs := f.fenced(pod)
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, known := f.pods[pod.UID]; !known {
		if f.length == 0 || !needs {
			return false
		}
		f.pods[pod.UID], f.dirty = false, true
	}
	f.tell(ctx)
	return f.length > 0 && (!f.pods[pod.UID] || f.now() >= f.deadline)
}

// keep forgets the pods that are not known any more, and lets the guard be told again, in case it is a new one.
func (f *fence) keep(known map[types.UID]bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dirty = f.dirty || len(f.pods) > 0
	maps.DeleteFunc(f.pods, func(uid types.UID, _ bool) bool { return !known[uid] })
}

// run watches the clock, and the guard, which it starts again if it is gone. known returns the pods of which anything may be left.
func (f *fence) run(ctx context.Context, known func() map[types.UID]bool) error {
	if f.guard == nil {
		<-ctx.Done()
		return ctx.Err()
	}
	ticker := time.NewTicker(fenceTick)
	defer ticker.Stop()
	told := f.now()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
		if now := f.now(); now-told >= leaseEvery {
			told = now
			f.keep(known())
		}
		f.mu.Lock()
		f.tell(ctx)
		held := f.length > 0 && len(f.pods) > 0 && f.now() >= f.deadline
		changed := held != f.held
		f.held = held
		f.mu.Unlock()
		switch {
		case changed && held:
			slog.Warn("no master has granted this worker a lease for too long: pods that use volumes for one node at a time are stopped")
			f.lapsed()
		case changed:
			slog.Info("this worker has a lease: pods that use volumes for one node at a time run again")
			f.granted()
		}
	}
}

// needsLease says whether a pod uses a volume for one node at a time. A claim or volume that is not known may be one.
func (a *Agent) needsLease(pod *corev1.Pod) bool {
	return volumes.FencedPod(pod, func(name string) (*corev1.PersistentVolume, bool) {
		claim, ok := a.store.PersistentVolumeClaim(pod.Namespace, name)
		if !ok || claim.Spec.VolumeName == "" {
			return nil, false
		}
		return a.store.PersistentVolume(claim.Spec.VolumeName)
	}, true)
}

// knownPods returns the pods of which anything may be left here.
func (a *Agent) knownPods() map[types.UID]bool {
	known := map[types.UID]bool{}
	for _, pod := range a.pods.Pods() {
		known[pod.UID] = true
	}
	return known
}
