// Package why explains on one screen why a pod is where it is, or why it does not run.
package why

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/duration"
	corehelpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/storage/ephemeral"
	"k8s.io/component-helpers/storage/volume"

	"k8s.io/client-go/kubernetes"

	"github.com/kontiki/kontiki/scheduler/config"
	"github.com/kontiki/kontiki/scheduler/framework"
)

// Options say which pod is explained, and how.
type Options struct {
	Client          kubernetes.Interface
	Namespace, Name string
	// Scheduler is the masters' configuration; nil for the default one.
	Scheduler *config.Config
	Out       io.Writer
	Now       func() time.Time
}

// explanation collects what is printed.
type explanation struct {
	Options
	ctx context.Context
	pod *corev1.Pod
}

// Run prints the explanation.
func Run(ctx context.Context, o Options) error {
	e := &explanation{Options: o, ctx: ctx}
	var err error
	e.pod, err = o.Client.CoreV1().Pods(o.Namespace).Get(ctx, o.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return e.missing(err)
	}
	if err != nil {
		return err
	}
	e.head()
	if e.pod.Spec.NodeName == "" && e.pod.DeletionTimestamp == nil && !framework.Finished(e.pod) {
		if err := e.scheduling(); err != nil {
			return err
		}
	}
	if err := e.volumes(); err != nil {
		return err
	}
	if err := e.devices(); err != nil {
		return err
	}
	e.containers()
	return e.events()
}

func (e *explanation) line(format string, args ...any) { fmt.Fprintf(e.Out, format+"\n", args...) }

func (e *explanation) age(t metav1.Time) string { return duration.HumanDuration(e.Now().Sub(t.Time)) }

// missing says why a pod of this name may not have been created.
func (e *explanation) missing(notFound error) error {
	list, err := e.Client.CoreV1().Events(e.Namespace).List(e.ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("reason", "FailedCreate").String()})
	if err != nil {
		return err
	}
	if len(list.Items) > 0 {
		e.line("There is no pod %s/%s. Pods that could not be created in this namespace (quota, admission):", e.Namespace, e.Name)
		e.list(list.Items)
	}
	return notFound
}

// head says what state the pod is in.
func (e *explanation) head() {
	p := e.pod
	state := string(p.Status.Phase)
	switch {
	case p.DeletionTimestamp != nil:
		state = "being deleted since " + e.age(metav1.NewTime(p.DeletionTimestamp.Add(-graceOf(p)))) + ", " + state
	case p.Status.Reason != "":
		state += " (" + p.Status.Reason + ": " + p.Status.Message + ")"
	}
	e.line("Pod %s/%s: %s, %s old, priority %d", p.Namespace, p.Name, state, e.age(p.CreationTimestamp), corehelpers.PodPriority(p))
	if p.Spec.NodeName != "" {
		e.line("Node: %s, chosen by %s%s", p.Spec.NodeName, p.Spec.SchedulerName, e.placedAgo())
	}
	for _, c := range p.Status.Conditions {
		if c.Type != corev1.PodScheduled && c.Status != corev1.ConditionTrue && c.Message != "" {
			e.line("Not %s: %s: %s", c.Type, c.Reason, c.Message)
		}
		if c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue {
			e.line("Disrupted: %s: %s", c.Reason, c.Message)
		}
	}
}

func graceOf(p *corev1.Pod) time.Duration {
	if p.DeletionGracePeriodSeconds == nil {
		return 0
	}
	return time.Duration(*p.DeletionGracePeriodSeconds) * time.Second
}

func (e *explanation) placedAgo() string {
	if c := scheduled(e.pod); c != nil && c.Status == corev1.ConditionTrue {
		return " " + e.age(c.LastTransitionTime) + " ago"
	}
	return ""
}

func scheduled(p *corev1.Pod) *corev1.PodCondition {
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == corev1.PodScheduled {
			return &p.Status.Conditions[i]
		}
	}
	return nil
}

// scheduling says why the pod has no node: what the scheduler said, and what each node lacks now.
func (e *explanation) scheduling() error {
	p := e.pod
	switch c := scheduled(p); {
	case len(p.Spec.SchedulingGates) > 0:
		var gates []string
		for _, g := range p.Spec.SchedulingGates {
			gates = append(gates, g.Name)
		}
		e.line("Scheduling: it is held by its scheduling gates: %s", strings.Join(gates, ", "))
		return nil
	case c == nil:
		e.line("Scheduling: %s has not looked at it yet", p.Spec.SchedulerName)
	default:
		e.line("Scheduling: %s: %s", c.Reason, c.Message)
	}
	if node := p.Status.NominatedNodeName; node != "" {
		e.line("Preemption: it waits for pods that leave node %s", node)
	}
	return e.nodes()
}

// mostNamed is how many nodes are named for each reason.
const mostNamed = 5

// nodes groups the nodes by what they lack.
func (e *explanation) nodes() error {
	cluster, err := e.cluster()
	if err != nil {
		return err
	}
	if len(cluster.Nodes) == 0 {
		e.line("Nodes: there are none")
		return nil
	}
	scheduler := e.Scheduler
	if scheduler == nil {
		scheduler = config.Default()
	}
	profile, ok := scheduler.Offline(e.pod.Spec.SchedulerName)
	if !ok {
		e.line("Nodes: not looked at, as no profile of the masters' scheduler is called %s, of %s", e.pod.Spec.SchedulerName, strings.Join(scheduler.Names(), ", "))
		return nil
	}
	info := framework.NewPodInfo(e.pod)
	fit, refusal := framework.NewEvaluation(cluster, profile, info).Fit(info)
	if refusal == nil {
		var names []string
		for _, n := range fit {
			names = append(names, n.Name)
		}
		e.line("Nodes: %d of %d fit now, volumes and devices aside: %s", len(fit), len(cluster.Nodes), abridged(names))
		return nil
	}
	e.line("Nodes (%d), volumes and devices aside:", refusal.Nodes)
	if refusal.All != nil {
		e.line("  all: %s [%s]", refusal.All.Message(), refusal.All.Plugin)
		return nil
	}
	by := map[string][]string{}
	for _, n := range cluster.Nodes {
		status := refusal.Single[n.Name]
		if status == nil {
			status = refusal.Rest
		}
		why := fmt.Sprintf("%s [%s]", status.Message(), status.Plugin)
		by[why] = append(by[why], n.Name)
	}
	var whys []string
	for why := range by {
		whys = append(whys, why)
	}
	slices.SortFunc(whys, func(a, b string) int {
		if len(by[a]) != len(by[b]) {
			return len(by[b]) - len(by[a])
		}
		return strings.Compare(a, b)
	})
	for _, why := range whys {
		e.line("  %d: %s: %s", len(by[why]), why, abridged(by[why]))
	}
	return nil
}

func abridged(names []string) string {
	if len(names) <= mostNamed {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:mostNamed], ", "), len(names)-mostNamed)
}

// cluster reads the nodes and the pods on them.
func (e *explanation) cluster() (*framework.Cluster, error) {
	core := e.Client.CoreV1()
	namespaces, err := core.Namespaces().List(e.ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	labelsOf := map[string]labels.Set{}
	for i := range namespaces.Items {
		labelsOf[namespaces.Items[i].Name] = namespaces.Items[i].Labels
	}
	cluster := framework.NewCluster(func(name string) labels.Set { return labelsOf[name] })
	nodes, err := core.Nodes().List(e.ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for i := range nodes.Items {
		cluster.SetNode(&nodes.Items[i])
	}
	pods, err := core.Pods("").List(e.ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for i := range pods.Items {
		p := &pods.Items[i]
		switch {
		case framework.Finished(p):
		case p.Spec.NodeName != "":
			cluster.Place(framework.NewPodInfo(p), p.Spec.NodeName)
		case p.Status.NominatedNodeName != "":
			cluster.Nominate(framework.NewPodInfo(p), p.Status.NominatedNodeName)
		}
	}
	cluster.Settle()
	return cluster, nil
}

// volumes says which claims of the pod are not bound.
func (e *explanation) volumes() error {
	for i := range e.pod.Spec.Volumes {
		v := &e.pod.Spec.Volumes[i]
		name := ""
		switch {
		case v.PersistentVolumeClaim != nil:
			name = v.PersistentVolumeClaim.ClaimName
		case v.Ephemeral != nil:
			name = ephemeral.VolumeClaimName(e.pod, v)
		default:
			continue
		}
		claim, err := e.Client.CoreV1().PersistentVolumeClaims(e.Namespace).Get(e.ctx, name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			e.line("Volume %s: there is no claim %q", v.Name, name)
		case err != nil:
			return err
		case claim.DeletionTimestamp != nil:
			e.line("Volume %s: claim %q is being deleted", v.Name, name)
		case claim.Status.Phase != corev1.ClaimBound:
			why := fmt.Sprintf("Volume %s: claim %q (class %q) is %s", v.Name, name, volume.GetPersistentVolumeClaimClass(claim), claim.Status.Phase)
			if node := claim.Annotations[volume.AnnSelectedNode]; node != "" {
				why += ", a volume for node " + node + " is awaited"
			}
			e.line("%s", why)
		}
	}
	return nil
}

// containers says what those do that are not ready: images, crashes, probes.
func (e *explanation) containers() {
	probes := map[string]*corev1.Container{}
	for _, list := range [][]corev1.Container{e.pod.Spec.InitContainers, e.pod.Spec.Containers} {
		for i := range list {
			probes[list[i].Name] = &list[i]
		}
	}
	for _, list := range [][]corev1.ContainerStatus{e.pod.Status.InitContainerStatuses, e.pod.Status.ContainerStatuses} {
		for i := range list {
			if why := e.container(&list[i], probes[list[i].Name]); why != "" {
				e.line("Container %s: %s", list[i].Name, why)
			}
		}
	}
}

func (e *explanation) container(s *corev1.ContainerStatus, spec *corev1.Container) string {
	why := ""
	switch {
	case s.State.Waiting != nil:
		why = "waits: " + joined(s.State.Waiting.Reason, s.State.Waiting.Message)
		if s.State.Waiting.Reason == "ErrImagePull" || s.State.Waiting.Reason == "ImagePullBackOff" {
			why += " (image " + s.Image + ")"
		}
	case s.State.Terminated != nil && s.State.Terminated.ExitCode != 0:
		why = fmt.Sprintf("ended with exit code %d %s ago: %s", s.State.Terminated.ExitCode, e.age(s.State.Terminated.FinishedAt), joined(s.State.Terminated.Reason, s.State.Terminated.Message))
	case s.State.Running != nil && !s.Ready && s.Started != nil && !*s.Started && spec != nil && spec.StartupProbe != nil:
		why = "runs, but its startup probe has not succeeded"
	case s.State.Running != nil && !s.Ready && spec != nil && spec.ReadinessProbe != nil:
		why = "runs, but its readiness probe fails"
	}
	if last := s.LastTerminationState.Terminated; s.RestartCount > 0 && last != nil && why != "" {
		why += fmt.Sprintf("; restarted %d times, last after exit code %d (%s)", s.RestartCount, last.ExitCode, last.Reason)
	}
	return why
}

func joined(reason, message string) string {
	if message == "" {
		return reason
	}
	return reason + ": " + message
}

// mostEvents is how many events are shown.
const mostEvents = 5

// events shows the last warnings about the pod.
func (e *explanation) events() error {
	selector := fields.SelectorFromSet(fields.Set{"involvedObject.uid": string(e.pod.UID), "type": corev1.EventTypeWarning})
	list, err := e.Client.CoreV1().Events(e.Namespace).List(e.ctx, metav1.ListOptions{FieldSelector: selector.String()})
	if err != nil {
		return err
	}
	if len(list.Items) > 0 {
		e.line("Warnings:")
		e.list(list.Items)
	}
	return nil
}

func (e *explanation) list(events []corev1.Event) {
	last := func(ev *corev1.Event) time.Time {
		if ev.Series != nil {
			return ev.Series.LastObservedTime.Time
		}
		return slices.MaxFunc([]time.Time{ev.LastTimestamp.Time, ev.EventTime.Time, ev.CreationTimestamp.Time}, time.Time.Compare)
	}
	slices.SortFunc(events, func(a, b corev1.Event) int { return last(&b).Compare(last(&a)) })
	for i := range events[:min(len(events), mostEvents)] {
		ev := &events[i]
		e.line("  %s ago, %s: %s", e.age(metav1.NewTime(last(ev))), ev.Reason, ev.Message)
	}
}
