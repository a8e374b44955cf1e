package static

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/test/await"
)

// bed is a node with static pods, a runner that runs nothing, and an API that has only mirror pods.
type bed struct {
	t      *testing.T
	dir    string
	config Config
	pods   *Pods
	stop   func()

	mu      sync.Mutex
	updated []string // names with UIDs' first characters
	ended   []types.UID
	running map[types.UID]*corev1.Pod
	api     map[string]*corev1.Pod
	made    int
	refuse  error
	reports map[types.UID]corev1.PodStatus
}

func newBed(t *testing.T) *bed {
	b := &bed{t: t, dir: filepath.Join(t.TempDir(), "pods"), running: map[types.UID]*corev1.Pod{}, api: map[string]*corev1.Pod{}, reports: map[types.UID]corev1.PodStatus{}}
	if err := os.Mkdir(b.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	b.config = Config{Path: b.dir + "/", Node: "n1", StateDir: filepath.Join(t.TempDir(), "state"), Mirrors: b,
		Owner: func() *corev1.Node { return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "node-uid"}} },
		Report: func(mirror *corev1.Pod, status corev1.PodStatus) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.reports[mirror.UID] = status
		}}
	return b
}

func (b *bed) start() {
	ctx, cancel := context.WithCancel(context.Background())
	b.pods = New(b.config)
	b.pods.Start(b)
	done := make(chan error, 1)
	go func() { done <- b.pods.Run(ctx) }()
	b.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			b.t.Errorf("Run: %v", err)
		}
	})
	b.t.Cleanup(b.stop)
}

// restart runs another agent, whose runner runs nothing yet.
func (b *bed) restart() {
	b.stop()
	b.mu.Lock()
	clear(b.running)
	b.mu.Unlock()
	b.start()
}

func (b *bed) Update(pod *corev1.Pod) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.running[pod.UID] = pod
	b.updated = append(b.updated, pod.Name)
}

func (b *bed) Remove(uid types.UID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = append(b.ended, uid)
}

// end is what the runner does when a removed pod has ended.
func (b *bed) end(uid types.UID) {
	b.t.Helper()
	b.mu.Lock()
	pod := b.running[uid]
	delete(b.running, uid)
	b.mu.Unlock()
	if pod == nil || !b.pods.Status(pod, corev1.PodStatus{Phase: corev1.PodSucceeded}, true) {
		b.t.Fatalf("the pod %s is not a static one", uid)
	}
}

func (b *bed) List() []*corev1.Pod {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []*corev1.Pod
	for _, p := range b.api {
		out = append(out, p)
	}
	return out
}

func (b *bed) Create(_ context.Context, pod *corev1.Pod) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.refuse != nil {
		return b.refuse
	}
	b.made++
	pod = pod.DeepCopy()
	pod.UID, pod.Generation = types.UID(fmt.Sprint("mirror-", b.made)), 1
	b.api[keyOf(pod)] = pod
	b.pods.MirrorsChanged()
	return nil
}

func (b *bed) Delete(_ context.Context, mirror *corev1.Pod) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if now := b.api[keyOf(mirror)]; now != nil && now.UID == mirror.UID {
		delete(b.api, keyOf(mirror))
	}
	b.pods.MirrorsChanged()
	return nil
}

func (b *bed) write(name, content string) {
	b.t.Helper()
	temporary := filepath.Join(b.dir, "."+name)
	if err := errors.Join(os.WriteFile(temporary, []byte(content), 0o600), os.Rename(temporary, filepath.Join(b.dir, name))); err != nil {
		b.t.Fatal(err)
	}
}

// await waits until these pods run, each said as NAME or NAME=IMAGE.
func (b *bed) await(want ...string) (uids []types.UID) {
	b.t.Helper()
	await.That(b.t, fmt.Sprint("running: ", want), func() error {
		b.mu.Lock()
		defer b.mu.Unlock()
		uids = nil
		var have []string
		for _, w := range want {
			name, image, _ := strings.Cut(w, "=")
			for uid, p := range b.running {
				if p.Name == name && (image == "" || p.Spec.Containers[0].Image == image) {
					uids = append(uids, uid)
				}
			}
		}
		for _, p := range b.running {
			have = append(have, p.Name+"="+p.Spec.Containers[0].Image)
		}
		if len(uids) != len(want) || len(have) != len(want) {
			return fmt.Errorf("it is %v", have)
		}
		return nil
	})
	return uids
}

func (b *bed) awaitEnding(uid types.UID) {
	b.t.Helper()
	await.That(b.t, "the end of "+string(uid), func() error {
		b.mu.Lock()
		defer b.mu.Unlock()
		if !slices.Contains(b.ended, uid) {
			return fmt.Errorf("ended: %v", b.ended)
		}
		return nil
	})
}

func pod(name, image string) string {
	return strings.NewReplacer("name: web", "name: "+name, "example.com/web:1", image).Replace(manifest)
}

func TestPodsFollowTheirFiles(t *testing.T) {
	b := newBed(t)
	b.write("a.yaml", pod("a", "i:1"))
	b.start()
	first := b.await("a-n1=i:1")[0]
	b.write("b.json", pod("b", "i:1"))
	b.await("a-n1", "b-n1")

	// A changed pod starts when the one before it has ended.
	b.write("a.yaml", pod("a", "i:2"))
	b.awaitEnding(first)
	b.await("a-n1=i:1", "b-n1")
	b.end(first)
	second := b.await("a-n1=i:2", "b-n1")[0]
	if second == first || !b.pods.Owns(second) || b.pods.Owns(first) {
		t.Errorf("first %s, second %s", first, second)
	}
	if err := os.Remove(filepath.Join(b.dir, "a.yaml")); err != nil {
		t.Fatal(err)
	}
	b.awaitEnding(second)
	b.end(second)
	b.await("b-n1")

	// The folder may be replaced.
	if err := errors.Join(os.RemoveAll(b.dir), os.Mkdir(b.dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	b.write("c.yaml", pod("c", "i:1"))
	b.await("b-n1", "c-n1")
}

// TestASingleFile: the path may be that of a file instead of a folder.
func TestASingleFile(t *testing.T) {
	b := newBed(t)
	b.config.Path = filepath.Join(b.dir, "only.yaml")
	b.write("other.yaml", pod("other", "i:1"))
	b.start()
	b.write("only.yaml", pod("only", "i:1"))
	first := b.await("only-n1=i:1")[0]
	b.write("only.yaml", pod("only", "i:2"))
	b.awaitEnding(first)
	b.end(first)
	b.await("only-n1=i:2")
}

func TestBadFilesHarmNobody(t *testing.T) {
	b := newBed(t)
	b.write("good.yaml", pod("good", "i:1"))
	b.write("z-twin.yaml", pod("good", "i:9")) // the first of a name counts
	b.write("broken.yaml", "{")
	b.write("large.yaml", pod("large", "i:1")+"#"+strings.Repeat("x", maxFile))
	b.write(".hidden.yaml", pod("hidden", "i:1"))
	outside := filepath.Join(t.TempDir(), "outside.yaml")
	err := errors.Join(os.WriteFile(outside, []byte(pod("outside", "i:1")), 0o600), os.Symlink(outside, filepath.Join(b.dir, "link.yaml")),
		syscall.Mkfifo(filepath.Join(b.dir, "fifo.yaml"), 0o600), os.Mkdir(filepath.Join(b.dir, "folder"), 0o755))
	if err != nil {
		t.Fatal(err)
	}
	b.start()
	good := b.await("good-n1=i:1")[0]

	// A file that becomes invalid leaves its pod as it is; also over a restart of the agent.
	b.write("good.yaml", "{")
	b.write("new.yaml", pod("new", "i:1"))
	b.await("good-n1=i:1", "new-n1")
	b.restart()
	if again := b.await("good-n1=i:1", "new-n1")[0]; again != good {
		t.Errorf("after a restart it is %s, it was %s", again, good)
	}
	// So does a folder with too many files, whatever else has changed.
	for i := range maxFiles {
		b.write(fmt.Sprintf("many-%d.yaml", i), "{")
	}
	if err := os.Remove(filepath.Join(b.dir, "good.yaml")); err != nil {
		t.Fatal(err)
	}
	b.restart()
	b.await("good-n1=i:1", "new-n1")
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.ended) > 0 {
		t.Errorf("ended: %v", b.ended)
	}
}

func TestARestartEndsWhatWasRemovedMeanwhile(t *testing.T) {
	b := newBed(t)
	b.write("a.yaml", pod("a", "i:1"))
	b.write("b.yaml", pod("b", "i:1"))
	b.start()
	uids := b.await("a-n1", "b-n1")
	b.stop()
	b.mu.Lock()
	clear(b.running)
	b.mu.Unlock()
	b.write("a.yaml", pod("a", "i:2"))
	if err := os.Remove(filepath.Join(b.dir, "b.yaml")); err != nil {
		t.Fatal(err)
	}
	b.start()
	b.await("a-n1=i:1", "b-n1") // as they were, so that they end by their own rules
	b.awaitEnding(uids[0])
	b.awaitEnding(uids[1])
	b.end(uids[0])
	b.end(uids[1])
	b.await("a-n1=i:2")
	records, err := os.ReadDir(b.config.StateDir)
	if err != nil || len(records) != 1 {
		t.Errorf("%d records are left, %v", len(records), err)
	}
}

// awaitMirror waits for a mirror pod other than one.
func (b *bed) awaitMirror(key string, but types.UID) (mirror *corev1.Pod) {
	b.t.Helper()
	await.That(b.t, "the mirror pod "+key, func() error {
		b.mu.Lock()
		defer b.mu.Unlock()
		if mirror = b.api[key]; mirror == nil || mirror.UID == but {
			return fmt.Errorf("there are %v", b.api)
		}
		return nil
	})
	return mirror
}

func (b *bed) awaitReport(mirror *corev1.Pod, phase corev1.PodPhase) {
	b.t.Helper()
	await.That(b.t, fmt.Sprint("a report of phase ", phase), func() error {
		b.mu.Lock()
		defer b.mu.Unlock()
		if s := b.reports[mirror.UID]; s.Phase != phase || s.ObservedGeneration != mirror.Generation {
			return fmt.Errorf("it is %+v", s)
		}
		return nil
	})
}

func TestMirrorPodsShowStaticPods(t *testing.T) {
	b := newBed(t)
	orphan := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "orphan", UID: "o", Annotations: map[string]string{mirrorAnnotation: "1"}}}
	b.api[keyOf(orphan)] = orphan
	b.refuse = errors.New("no quota")
	b.write("a.yaml", pod("a", "i:1"))
	b.start()
	uid := b.await("a-n1")[0]
	await.That(t, "the orphan's end", func() error {
		if len(b.List()) > 0 {
			return errors.New("it is there")
		}
		return nil
	})
	b.mu.Lock()
	b.refuse = nil
	b.mu.Unlock() // it is tried again by itself
	mirror := b.awaitMirror("default/a-n1", "")
	controller := true
	owner := metav1.OwnerReference{APIVersion: "v1", Kind: "Node", Name: "n1", UID: "node-uid", Controller: &controller}
	if got := mirror.OwnerReferences; len(got) != 1 || got[0].Name != owner.Name || got[0].UID != owner.UID || got[0].Kind != owner.Kind || !*got[0].Controller {
		t.Errorf("owners: %v", got)
	}
	if mirror.Annotations[mirrorAnnotation] != string(uid) || mirror.Annotations[hashAnnotation] != string(uid) || mirror.Annotations[sourceAnnotation] != "file" || mirror.Spec.NodeName != "n1" {
		t.Errorf("the mirror pod: %+v", mirror)
	}
	b.mu.Lock()
	running := b.running[uid]
	b.mu.Unlock()
	if !b.pods.Status(running, corev1.PodStatus{Phase: corev1.PodRunning}, false) {
		t.Fatal("the pod is not taken for a static one")
	}
	b.awaitReport(mirror, corev1.PodRunning)

	// Deleting the mirror pod, also gracefully, leaves the static pod; another is made and shows the same.
	b.mu.Lock()
	deleted := mirror.DeepCopy()
	now := metav1.Now()
	deleted.DeletionTimestamp = &now
	b.api[keyOf(mirror)] = deleted
	b.mu.Unlock()
	b.pods.MirrorsChanged()
	second := b.awaitMirror("default/a-n1", mirror.UID)
	b.awaitReport(second, corev1.PodRunning)
	b.await("a-n1=i:1")

	// The mirror pod of a changed pod stays until its pod has ended.
	b.write("a.yaml", pod("a", "i:2"))
	b.awaitEnding(uid)
	if b.awaitMirror("default/a-n1", "").UID != second.UID {
		t.Error("the mirror pod was replaced before its pod had ended")
	}
	b.end(uid)
	third := b.awaitMirror("default/a-n1", second.UID)
	if third.Spec.Containers[0].Image != "i:2" {
		t.Errorf("the new mirror pod has image %s", third.Spec.Containers[0].Image)
	}
	if err := os.Remove(filepath.Join(b.dir, "a.yaml")); err != nil {
		t.Fatal(err)
	}
	last := b.await("a-n1=i:2")[0]
	b.awaitEnding(last)
	b.end(last)
	await.That(t, "the end of the mirror pod", func() error {
		if l := b.List(); len(l) > 0 {
			return fmt.Errorf("there is %s", l[0].Name)
		}
		return nil
	})
	if b.pods.Status(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "of the API"}}, corev1.PodStatus{}, false) {
		t.Error("a pod of the API is taken for a static one")
	}
}
