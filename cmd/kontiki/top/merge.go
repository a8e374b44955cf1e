package top

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

const (
	// mergedPods is how many pods' logs are read at a time: each is a connection through a master to a worker.
	mergedPods = 50
	// mergedTail is how many lines of each pod from before are asked for.
	mergedTail = 100
)

// merger reads the logs of all pods that a selector has, also of those that come later, into one stream: each line after its pod's name, in the order of time as far
// as lines come together.
type merger struct {
	set       *kubernetes.Clientset
	namespace string
	selector  string
	prefix    string // of the pods' names, which is left out before their lines
	stream    *stream

	readers sync.WaitGroup
	mu      sync.Mutex
	read    map[types.UID]string // the container's last run that is or was read, by the pod's UID
	reading int
	full    bool // it was said that there are more
}

// run follows the logs until the context ends.
func (g *merger) run(ctx context.Context) {
	defer g.readers.Wait()
	pods := g.set.CoreV1().Pods(g.namespace)
	_, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: &cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				o.LabelSelector = g.selector
				answer, err := pods.List(ctx, o)
				if err != nil && ctx.Err() == nil {
					g.stream.add(time.Time{}, clean(err.Error(), lineBytes))
				}
				return answer, err
			},
			WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
				o.LabelSelector = g.selector
				return pods.Watch(ctx, o)
			},
		},
		ObjectType: &corev1.Pod{},
		Transform: func(obj any) (any, error) { // only what follow needs is kept
			if p, ok := obj.(*corev1.Pod); ok {
				p.ManagedFields, p.Spec = nil, corev1.PodSpec{Containers: p.Spec.Containers}
			}
			return obj, nil
		},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { g.follow(ctx, obj) },
			UpdateFunc: func(_, obj any) { g.follow(ctx, obj) },
			DeleteFunc: func(obj any) { g.forget(obj) },
		},
	})
	informer.RunWithContext(ctx)
}

// follow begins to read the log of a pod's default container, once it runs or has run and again after it was restarted.
func (g *merger) follow(ctx context.Context, obj any) {
	p, ok := obj.(*corev1.Pod)
	if !ok {
		return
	}
	container := p.Annotations["kubectl.kubernetes.io/default-container"]
	if container == "" && len(p.Spec.Containers) > 0 {
		container = p.Spec.Containers[0].Name
	}
	run := ""
	for _, s := range p.Status.ContainerStatuses {
		if s.Name == container && (s.State.Running != nil || s.State.Terminated != nil) {
			run = s.ContainerID
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if run == "" || g.read[p.UID] == run {
		return
	}
	if g.reading == mergedPods {
		if !g.full {
			g.full = true
			g.stream.add(time.Time{}, fmt.Sprintf("(there are more pods: %d are followed at a time)", mergedPods))
		}
		return
	}
	if g.read == nil {
		g.read = map[types.UID]string{}
	}
	g.read[p.UID] = run
	g.reading++
	request := g.set.CoreV1().Pods(p.Namespace).GetLogs(p.Name, &corev1.PodLogOptions{Container: container, Follow: true, Timestamps: true, TailLines: new(int64(mergedTail))})
	g.readers.Go(func() { g.readPod(ctx, p.Name, request) })
}

// forget drops what is known of a pod that is gone.
func (g *merger) forget(obj any) {
	if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = gone.Obj
	}
	if p, ok := obj.(*corev1.Pod); ok {
		g.mu.Lock()
		delete(g.read, p.UID)
		g.mu.Unlock()
	}
}

func (g *merger) readPod(ctx context.Context, name string, request *rest.Request) {
	short := strings.TrimPrefix(name, g.prefix)
	err := readLines(ctx, request, func(line string) {
		at, text := stamped(line)
		g.stream.add(at, short+"  "+text)
	})
	if err != nil && ctx.Err() == nil {
		g.stream.add(time.Time{}, short+"  "+clean(err.Error(), lineBytes))
	}
	g.mu.Lock()
	g.reading--
	g.mu.Unlock()
}

// stamped splits a line that begins with its time.
func stamped(line string) (time.Time, string) {
	stamp, text, ok := strings.Cut(line, " ")
	at, err := time.Parse(time.RFC3339Nano, stamp)
	if !ok || err != nil {
		return time.Time{}, line
	}
	return at, text
}
