package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// namespace is where the pods are.
const namespace = "compare"

type workload struct {
	clients, pods, lists, watchers, events, paced, pace int
}

// target is the resource that the requests of a workload are about.
type target struct {
	group, resource string
	// path is that of the collection, size the least number of bytes that an object takes in a list.
	path string
	size int64
	// define makes the API serve the resource, nil if it does.
	define func(context.Context, *kubernetes.Clientset) error
	// updateStatus reads the object first.
	create, get, updateStatus, remove func(ctx context.Context, set *kubernetes.Clientset, name string) error
}

// pods is the target of -workload api.
var pods = target{resource: "pods", path: "/api/v1/namespaces/" + namespace + "/pods", size: 1000, create: create, get: get, updateStatus: getAndUpdateStatus, remove: remove}

// runner runs the workload once, in one encoding.
type runner struct {
	workload
	target   target
	system   system
	config   *rest.Config
	encoding string
	profile  string
	record   func(measurement)
}

func (r *runner) run(ctx context.Context) error {
	sets, err := r.connect(r.clients, nil)
	if err != nil {
		return err
	}
	if err := r.memory("memory before"); err != nil {
		return err
	}
	// Warm up: the servers' connections to each other, their caches of tokens and rules, and their heaps.
	warm := r.names("warm", 10*r.clients)
	for _, request := range []func(context.Context, *kubernetes.Clientset, string) error{r.target.create, r.target.updateStatus, r.target.remove} {
		if _, err := share(ctx, sets, warm, request); err != nil {
			return err
		}
	}
	names := r.names("pod", r.pods)
	if err := r.requests(ctx, "create", sets, names, r.target.create); err != nil {
		return err
	}
	if err := r.requests(ctx, "get", sets, names, r.target.get); err != nil {
		return err
	}
	if err := r.requests(ctx, "get + update status", sets, names, r.target.updateStatus); err != nil {
		return err
	}
	plain, err := r.connect(r.clients, func(c *rest.Config) { c.DisableCompression = true })
	if err != nil {
		return err
	}
	lists := make([]string, r.lists)
	if err := r.requests(ctx, "list", plain, lists, r.list); err != nil {
		return err
	}
	if err := r.requests(ctx, "list, gzip", sets, lists, r.list); err != nil {
		return err
	}
	if err := r.memory("memory with " + r.target.resource); err != nil {
		return err
	}
	if err := r.watch(ctx, sets); err != nil {
		return err
	}
	return r.requests(ctx, "delete", sets, names, r.target.remove)
}

func (r *runner) names(kind string, n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("%s-%s-%06d", r.encoding, kind, i)
	}
	return names
}

// connect returns clients with a connection each, divided among the API servers.
func (r *runner) connect(n int, change func(*rest.Config)) ([]*kubernetes.Clientset, error) {
	var sets []*kubernetes.Clientset
	endpoints := r.system.endpoints()
	for i := range n {
		config := rest.CopyConfig(r.config)
		config.Dial = endpoints[i%len(endpoints)]
		config.ContentType = runtime.ContentTypeJSON
		if r.encoding == "protobuf" {
			config.ContentType = runtime.ContentTypeProtobuf
		}
		if change != nil {
			change(config)
		}
		set, err := clientset(config)
		if err != nil {
			return nil, err
		}
		if _, err := set.Discovery().ServerVersion(); err != nil { // connected
			return nil, err
		}
		sets = append(sets, set)
	}
	return sets, nil
}

// clientset returns a client without a limit of its own rate.
func clientset(config *rest.Config) (*kubernetes.Clientset, error) {
	config = rest.CopyConfig(config)
	config.QPS = -1
	return kubernetes.NewForConfig(config)
}

func create(ctx context.Context, set *kubernetes.Clientset, name string) error {
	_, err := set.CoreV1().Pods(namespace).Create(ctx, newPod(name), metav1.CreateOptions{})
	return err
}

func get(ctx context.Context, set *kubernetes.Clientset, name string) error {
	_, err := set.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	return err
}

func getAndUpdateStatus(ctx context.Context, set *kubernetes.Clientset, name string) error {
	pod, err := set.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	setStatus(pod)
	_, err = set.CoreV1().Pods(namespace).UpdateStatus(ctx, pod, metav1.UpdateOptions{})
	return err
}

func remove(ctx context.Context, set *kubernetes.Clientset, name string) error {
	return set.CoreV1().Pods(namespace).Delete(ctx, name, metav1.DeleteOptions{})
}

// list reads a list of all objects without decoding it.
func (r *runner) list(ctx context.Context, set *kubernetes.Clientset, _ string) error {
	body, err := set.CoreV1().RESTClient().Get().AbsPath(r.target.path).Stream(ctx)
	if err != nil {
		return err
	}
	n, err := io.Copy(io.Discard, body)
	if err = errors.Join(err, body.Close()); err == nil && n < int64(r.pods)*r.target.size {
		err = fmt.Errorf("a list of %d %s has %d bytes", r.pods, r.target.resource, n)
	}
	return err
}

// requests measures one request per name, of all clients.
func (r *runner) requests(ctx context.Context, phase string, sets []*kubernetes.Clientset, names []string, request func(context.Context, *kubernetes.Clientset, string) error) error {
	return r.during(ctx, phase, len(names), func() ([]time.Duration, error) { return share(ctx, sets, names, request) })
}

// during records what a phase of n requests took and used.
func (r *runner) during(ctx context.Context, phase string, n int, work func() ([]time.Duration, error)) error {
	pids, err := r.system.processes()
	if err != nil {
		return err
	}
	finish := r.startProfiles(ctx, phase)
	servers, err := processorTime(pids)
	if err != nil {
		return err
	}
	self, err := processorTime([]int{os.Getpid()})
	if err != nil {
		return err
	}
	begin := time.Now()
	took, err := work()
	elapsed := time.Since(begin)
	if err != nil {
		return fmt.Errorf("%s: %w", phase, err)
	}
	serversAfter, err := processorTime(pids)
	if err != nil {
		return err
	}
	selfAfter, err := processorTime([]int{os.Getpid()})
	if err != nil {
		return err
	}
	if err := finish(); err != nil {
		return err
	}
	slices.Sort(took)
	r.record(measurement{phase: phase, rate: float64(n) / elapsed.Seconds(), p50: took[len(took)/2], p99: took[len(took)*99/100],
		servers: (serversAfter - servers) / time.Duration(n), self: (selfAfter - self) / time.Duration(n)})
	return nil
}

// share lets the clients make one request per name, each as soon as its last one has been answered.
func share[N any](ctx context.Context, sets []*kubernetes.Clientset, names []N, request func(context.Context, *kubernetes.Clientset, N) error) ([]time.Duration, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	took := make([]time.Duration, len(names))
	var next atomic.Int64
	var wg sync.WaitGroup
	for _, set := range sets {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(names) && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				begin := time.Now()
				if err := request(ctx, set, names[i]); err != nil {
					cancel(err)
					return
				}
				took[i] = time.Since(begin)
			}
		})
	}
	wg.Wait()
	return took, context.Cause(ctx)
}

// memory records the servers' memory.
func (r *runner) memory(phase string) error {
	pids, err := r.system.processes()
	if err != nil {
		return err
	}
	bytes, err := memory(pids)
	r.record(measurement{phase: phase, memory: bytes})
	return err
}

// startProfiles begins a profile of each API server, if profiles are wanted, and returns a function that waits for them.
func (r *runner) startProfiles(ctx context.Context, phase string) (finish func() error) {
	if r.profile == "" {
		return func() error { return nil }
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	for i, endpoint := range r.system.endpoints() {
		wg.Go(func() {
			err := func() error {
				config := rest.CopyConfig(r.system.admin())
				config.Dial = endpoint
				set, err := clientset(config)
				if err != nil {
					return err
				}
				data, err := set.Discovery().RESTClient().Get().AbsPath("/debug/pprof/profile").Param("seconds", "2").DoRaw(ctx)
				if err != nil {
					return err
				}
				if err := os.MkdirAll(r.profile, 0o755); err != nil {
					return err
				}
				return os.WriteFile(filepath.Join(r.profile, fmt.Sprintf("%T-%s-%s-%d.pprof", r.system, r.encoding, phase, i)), data, 0o644)
			}()
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
		})
	}
	return func() error {
		wg.Wait()
		return errors.Join(errs...)
	}
}

func newPod(name string) *corev1.Pod {
	pod := template.DeepCopy()
	pod.Name = name
	return pod
}
