package static

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/internal/durable"
)

// Runner runs the pods.
type Runner interface {
	Update(pod *corev1.Pod)
	// Remove ends a pod; what is reported of it last says that it is terminated.
	Remove(uid types.UID)
}

// Config has what static pods need. All fields are required unless stated otherwise.
type Config struct {
	// Path is the folder of the files, or a single file; "" means that there are no static pods.
	Path string
	Node string
	// StateDir is a folder for what runs, so that a restarted agent ends properly what was removed while it was down.
	StateDir string
	// Mirrors has the mirror pods, and Owner returns this node as the API has it, nil if that is not known.
	Mirrors Mirrors
	Owner   func() *corev1.Node
	// Report reports a status of a mirror pod.
	Report func(mirror *corev1.Pod, status corev1.PodStatus)
}

// Pods are the static pods of a node. Its methods may be called concurrently.
type Pods struct {
	c      Config
	runner Runner
	folder folder // used by Start, and then only by the goroutine of Run
	wake   chan struct{}
	mirror chan struct{}
	owned  sync.Map // the UIDs of running, for Owns: callers hold locks of their own

	mu      sync.Mutex
	wanted  map[string]described // by namespace and name
	running map[types.UID]*run
}

// run is a pod that was passed to the runner and has not ended.
type run struct {
	described
	ending bool
	status *corev1.PodStatus // nil before the first report
	shown  types.UID         // of the mirror pod that was last given the status
}

// record is what is kept on disk of a run.
type record struct {
	File string      `json:"file"`
	Pod  *corev1.Pod `json:"pod"`
}

// New returns the static pods of a node. Nothing happens before Start.
func New(c Config) *Pods {
	if path, err := filepath.Abs(c.Path); c.Path != "" && err == nil {
		c.Path = path // as events name it
	}
	return &Pods{c: c, folder: folder{path: c.Path, node: c.Node, files: map[string]*file{}}, wake: make(chan struct{}, 1), mirror: make(chan struct{}, 1),
		wanted: map[string]described{}, running: map[types.UID]*run{}}
}

// Start passes to the runner what a previous agent ran and what the files describe now.
func (p *Pods) Start(r Runner) {
	p.runner = r
	p.restore()
	p.reread()
}

// Run follows the folder and keeps the mirror pods until ctx ends.
func (p *Pods) Run(ctx context.Context) error {
	done := make(chan error, 2)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { done <- p.keepMirrors(ctx) }()
	parts := 1
	changed := make(chan struct{}, 1)
	if p.c.Path != "" {
		parts++
		watched := folder{path: p.c.Path} // which files there are is for the other
		go func() { done <- watched.watch(ctx, func() { signal(changed) }) }()
	}
	for {
		select {
		case <-ctx.Done():
			for range parts {
				<-done
			}
			return ctx.Err()
		case <-changed:
			p.reread()
		case <-p.wake:
			p.reconcile()
		}
	}
}

// signal wakes whoever waits at a channel that holds one signal.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Owns says whether a pod is a static one.
func (p *Pods) Owns(uid types.UID) bool {
	_, ok := p.owned.Load(uid)
	return ok
}

// own notes a pod that is about to be passed to the runner. The caller holds mu.
func (p *Pods) own(d described) {
	p.running[d.pod.UID] = &run{described: d}
	p.owned.Store(d.pod.UID, true)
}

// Status takes a report of a pod; it returns false if that is none of the static pods. terminated means that nothing of it is left.
func (p *Pods) Status(pod *corev1.Pod, status corev1.PodStatus, terminated bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.running[pod.UID]
	if r == nil {
		return false
	}
	r.status, r.shown = &status, ""
	if terminated && r.ending {
		delete(p.running, pod.UID)
		p.owned.Delete(pod.UID)
		if err := os.Remove(p.recordOf(pod.UID)); err != nil {
			slog.Warn("the record of a static pod that has ended could not be removed", "pod", keyOf(pod), "err", err)
		}
		signal(p.wake)
	}
	signal(p.mirror)
	return true
}

// reread reads the folder and does what follows from it.
func (p *Pods) reread() {
	if p.c.Path != "" {
		problem := ""
		if err := p.folder.read(); err != nil {
			problem = err.Error()
		}
		if problem != p.folder.problem && problem != "" {
			slog.Error("the static pods' folder could not be read", "path", p.c.Path, "err", problem)
		}
		if p.folder.problem = problem; problem != "" {
			return // what runs goes on
		}
	}
	wanted := p.folder.pods()
	p.mu.Lock()
	p.wanted = wanted
	p.mu.Unlock()
	p.reconcile()
}

// reconcile ends what is not wanted any more, and starts what is wanted where nothing of the same name is still ending.
func (p *Pods) reconcile() {
	p.mu.Lock()
	defer p.mu.Unlock()
	taken := map[string]bool{}
	for uid, r := range p.running {
		key := keyOf(r.pod)
		taken[key] = true
		if want, ok := p.wanted[key]; !r.ending && (!ok || want.pod.UID != uid) {
			r.ending = true
			slog.Info("ending a static pod", "pod", key, "uid", uid, "file", r.file)
			p.runner.Remove(uid)
		}
	}
	for key, want := range p.wanted {
		if !taken[key] {
			p.start(want)
		}
	}
	signal(p.mirror)
}

// start starts a pod. The caller holds mu.
func (p *Pods) start(d described) {
	pod := d.pod.DeepCopy()
	pod.CreationTimestamp = metav1.NewTime(time.Now().Truncate(time.Second))
	d.pod = pod
	if err := p.save(d); err != nil {
		slog.Error("a static pod is not started, as it could not be recorded", "pod", keyOf(pod), "err", err)
		return // the folder is read again soon
	}
	slog.Info("starting a static pod", "pod", keyOf(pod), "uid", pod.UID, "file", d.file)
	p.own(d)
	p.runner.Update(pod)
}

func (p *Pods) recordOf(uid types.UID) string {
	return filepath.Join(p.c.StateDir, string(uid)+".json")
}

func (p *Pods) save(d described) error {
	if err := durable.MakeDir(p.c.StateDir, 0o700); err != nil {
		return err
	}
	return durable.Save(p.recordOf(d.pod.UID), &record{d.file, d.pod})
}

// restore continues what a previous agent ran.
func (p *Pods) restore() {
	entries, _ := os.ReadDir(p.c.StateDir)
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range entries {
		uid, isRecord := strings.CutSuffix(e.Name(), ".json")
		if !isRecord {
			continue
		}
		rec, err := durable.Load[record](filepath.Join(p.c.StateDir, e.Name()))
		if err != nil || rec == nil || rec.Pod == nil || string(rec.Pod.UID) != uid {
			slog.Warn("the record of a static pod cannot be read", "file", e.Name(), "err", err)
			_ = os.Remove(filepath.Join(p.c.StateDir, e.Name())) // its containers are removed as those of no pod
			continue
		}
		p.own(described{rec.File, rec.Pod})
		// If the file is no longer valid, the pod goes on.
		p.folder.files[rec.File] = &file{pod: rec.Pod}
		p.runner.Update(rec.Pod)
	}
}
