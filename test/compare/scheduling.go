package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// scheduling is the workload that measures API server, scheduler and store together, as upstream's scheduler_perf does: nodes are only
// objects, and a pod is done when it is bound. Both systems run it without what taints nodes that no kubelet reports for.
type scheduling struct {
	nodes, pods int
	shapes      string
	limit       time.Duration // for a shape
}

// shape is one kind of pods. A system is started anew for each.
type shape struct {
	// fill returns pods that are bound before the others are created; nil for none.
	fill func(i int) *corev1.Pod
	// fillPerNode is how many of these there are for each node.
	fillPerNode int
	pod         func(i int, s *scheduling) *corev1.Pod
	// count is how many pods are measured.
	count func(s *scheduling) int
}

func allPods(s *scheduling) int { return s.pods }

// shapes are scheduler_perf's: its pods' requests, constraints and topology.
var shapes = map[string]shape{
	"basic": {pod: func(int, *scheduling) *corev1.Pod { return plainPod("100m", "500Mi") }, count: allPods},
	"spread": {count: allPods, pod: func(int, *scheduling) *corev1.Pod {
		p := plainPod("100m", "500Mi")
		p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 5, TopologyKey: corev1.LabelTopologyZone,
			WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: colored("blue")}}
		return p
	}},
	"affinity": {count: allPods, pod: func(int, *scheduling) *corev1.Pod {
		p := plainPod("100m", "500Mi")
		p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{
			{TopologyKey: corev1.LabelTopologyRegion, LabelSelector: colored("blue")}}}}
		return p
	}},
	"preferred-affinity": {count: allPods, pod: func(int, *scheduling) *corev1.Pod {
		p := plainPod("100m", "500Mi")
		p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{
			{Weight: 1, PodAffinityTerm: corev1.PodAffinityTerm{TopologyKey: corev1.LabelHostname, LabelSelector: colored("blue")}}}}}
		return p
	}},
	// Half as many pods as there are nodes repel each other.
	"anti-affinity": {count: allPods, pod: func(i int, s *scheduling) *corev1.Pod {
		p := plainPod("100m", "500Mi")
		p.Labels["color"] = fmt.Sprint("green-", i/max(1, s.nodes/2))
		p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{
			{TopologyKey: corev1.LabelHostname, LabelSelector: colored(p.Labels["color"])}}}}
		return p
	}},
	// On each node are four pods, of which three have to go for one of those that are measured.
	"preemption": {fillPerNode: 4, fill: func(int) *corev1.Pod {
		p := plainPod("900m", "500Mi")
		p.Spec.TerminationGracePeriodSeconds = new(int64)
		return p
	}, pod: func(int, *scheduling) *corev1.Pod {
		p := plainPod("3", "500Mi")
		p.Spec.PriorityClassName = highPriority
		return p
	}, count: func(s *scheduling) int { return min(s.pods, s.nodes) }},
}

const highPriority = "compare-high"

func colored(color string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"color": color}}
}

func plainPod(cpu, memory string) *corev1.Pod {
	room := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"color": "blue"}}, Spec: corev1.PodSpec{
		AutomountServiceAccountToken: new(bool),
		Containers: []corev1.Container{{Name: "pause", Image: "registry.k8s.io/pause:3.10.2", Ports: []corev1.ContainerPort{{ContainerPort: 80}},
			Resources: corev1.ResourceRequirements{Requests: room, Limits: room}}},
	}}
	for _, key := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} { // no kubelet reports for the nodes
		p.Spec.Tolerations = append(p.Spec.Tolerations, corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists})
	}
	return p
}

// plainNode returns a node as scheduler_perf's, in one of ten zones of one region.
func plainNode(i int) *corev1.Node {
	room := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("32Gi"), corev1.ResourcePods: resource.MustParse("110")}
	name, now := fmt.Sprintf("node-%05d", i), metav1.Now()
	cidr := fmt.Sprintf("10.%d.%d.0/24", i/256, i%256)
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name, corev1.LabelTopologyZone: fmt.Sprint("zone-", i%10),
			corev1.LabelTopologyRegion: "region"}},
		Spec: corev1.NodeSpec{PodCIDR: cidr, PodCIDRs: []string{cidr}},
		Status: corev1.NodeStatus{Capacity: room, Allocatable: room, Conditions: []corev1.NodeCondition{{
			Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: now, LastTransitionTime: now}}},
	}
}

// names returns the shapes to measure.
func (s *scheduling) names() ([]string, error) {
	names := strings.Split(s.shapes, ",")
	for _, name := range names {
		if _, ok := shapes[name]; !ok {
			return nil, fmt.Errorf("-shape: there is no shape %q", name)
		}
	}
	return names, nil
}

// runScheduling measures all shapes on a system that runs.
func (r *runner) runScheduling(ctx context.Context, s scheduling) error {
	names, err := s.names()
	if err != nil {
		return err
	}
	sets, err := r.connect(r.clients, nil)
	if err != nil {
		return err
	}
	admin := sets[0]
	if _, err := admin.SchedulingV1().PriorityClasses().Create(ctx, &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: highPriority}, Value: 1000},
		metav1.CreateOptions{}); err != nil {
		return err
	}
	for _, name := range names {
		limited, cancel := context.WithTimeout(ctx, s.limit)
		err := r.runShape(limited, s, name, shapes[name], sets)
		cancel()
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func (r *runner) runShape(ctx context.Context, s scheduling, name string, shape shape, sets []*kubernetes.Clientset) error {
	namespace := "compare-" + name
	if err := createNamespace(ctx, sets[0], namespace); err != nil {
		return err
	}
	if _, err := share(ctx, sets, numbers(s.nodes), func(ctx context.Context, set *kubernetes.Clientset, i int) error {
		_, err := set.CoreV1().Nodes().Create(ctx, plainNode(i), metav1.CreateOptions{})
		return err
	}); err != nil {
		return err
	}
	create := func(kind string, n int, pod func(i int) *corev1.Pod) ([]time.Duration, error) {
		b, err := watchBindings(ctx, sets[0], namespace, kind, n)
		if err != nil {
			return nil, err
		}
		defer b.stop()
		if _, err := share(ctx, sets, numbers(n), func(ctx context.Context, set *kubernetes.Clientset, i int) error {
			p := pod(i)
			p.Name = fmt.Sprint(kind, "-", i)
			p.Labels["kind"] = kind
			b.created(p.Name)
			_, err := set.CoreV1().Pods(namespace).Create(ctx, p, metav1.CreateOptions{})
			return err
		}); err != nil {
			return nil, err
		}
		return b.wait(ctx)
	}
	// The first pods warm up what is built at first use.
	if _, err := create("warm", min(64, s.nodes), func(int) *corev1.Pod { return plainPod("1m", "1Mi") }); err != nil {
		return fmt.Errorf("warm up: %w", err)
	}
	if shape.fill != nil {
		if _, err := create("fill", shape.fillPerNode*s.nodes, shape.fill); err != nil {
			return fmt.Errorf("fill the nodes: %w", err)
		}
	}
	count := shape.count(&s)
	if err := r.during(ctx, name, count, func() ([]time.Duration, error) {
		return create("pod", count, func(i int) *corev1.Pod { return shape.pod(i, &s) })
	}); err != nil {
		return err
	}
	return r.memory(name + ": memory")
}

func numbers(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	return out
}

// createNamespace creates a namespace and waits until pods can be created in it: it has its default account.
func createNamespace(ctx context.Context, set *kubernetes.Clientset, name string) error {
	if _, err := set.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	w, err := set.CoreV1().ServiceAccounts(name).Watch(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	defer w.Stop()
	for {
		if _, err := set.CoreV1().ServiceAccounts(name).Get(ctx, "default", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return err
		}
		select {
		case _, ok := <-w.ResultChan():
			if !ok {
				return errors.New("the watch of service accounts ended")
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// bindings notes when pods are created and when a watch shows them bound.
type bindings struct {
	mu    sync.Mutex
	begin map[string]time.Time
	bound map[string]time.Duration
	want  int
	done  chan error
	stop  context.CancelFunc
}

func watchBindings(ctx context.Context, set *kubernetes.Clientset, namespace, kind string, n int) (*bindings, error) {
	ctx, cancel := context.WithCancel(ctx)
	b := &bindings{begin: map[string]time.Time{}, bound: map[string]time.Duration{}, want: n, done: make(chan error, 1), stop: cancel}
	pods, selected := set.CoreV1().Pods(namespace), metav1.ListOptions{LabelSelector: "kind=" + kind}
	w, err := pods.Watch(ctx, selected)
	if err != nil {
		cancel()
		return nil, err
	}
	go func() {
		b.done <- func() error {
			for {
				for event := range w.ResultChan() {
					if p, ok := event.Object.(*corev1.Pod); ok && b.saw(p) {
						w.Stop()
						return nil
					}
				}
				// A server may end a watch, as kube-apiserver does if it is busy: see what was missed, and go on from there.
				list, err := pods.List(ctx, selected)
				if err != nil {
					return err
				}
				for i := range list.Items {
					if b.saw(&list.Items[i]) {
						return nil
					}
				}
				from := selected
				from.ResourceVersion = list.ResourceVersion
				if w, err = pods.Watch(ctx, from); err != nil {
					return err
				}
			}
		}()
	}()
	return b, nil
}

// saw notes a pod, and returns true when all are bound.
func (b *bindings) saw(p *corev1.Pod) bool {
	if p.Spec.NodeName == "" {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.bound[p.Name]; !ok {
		b.bound[p.Name] = time.Since(b.begin[p.Name])
	}
	return len(b.bound) == b.want
}

func (b *bindings) created(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.begin[name] = time.Now()
}

// wait returns how long each pod took from its creation to its binding.
func (b *bindings) wait(ctx context.Context) ([]time.Duration, error) {
	err := error(nil)
	select {
	case err = <-b.done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil {
		return nil, fmt.Errorf("%d of %d pods were bound: %w", len(b.bound), b.want, err)
	}
	return slices.Collect(maps.Values(b.bound)), nil
}

// schedulingConfig returns the clients' configuration: the administrator's, as nodes are created too.
func schedulingConfig(s system) *rest.Config { return rest.CopyConfig(s.admin()) }
