package objects

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/internal/timeline"
	"github.com/kontiki/kontiki/internal/tracing"
)

// traced begins a trace for the creation of a pod by a component of this process, as by a controller. Requests of clients have begun theirs.
func (s *Service) traced(ctx context.Context, r *Request) (context.Context, tracing.Span) {
	if s.tracer == nil || r.Kind.GroupResource() != corev1.Resource("pods") || r.Subresource != "" || tracing.Known(ctx) {
		return ctx, tracing.Span{}
	}
	return s.tracer.Root(ctx, "create pods")
}

// keepTrace sets the annotation by which a pod's trace continues: of a new pod, where old is nil, to the trace that it is created in, and of an
// existing one to what it is. Nobody else may set it, since the scheduler and the workers add to the trace that it names.
func keepTrace(ctx context.Context, r *Request, obj, old registry.Object) {
	if _, ok := obj.(*corev1.Pod); !ok {
		return
	}
	annotations := obj.GetAnnotations()
	want := ""
	if old != nil {
		want = old.GetAnnotations()[tracing.Annotation]
	} else if !r.DryRun {
		want = tracing.Format(ctx)
	}
	has, there := annotations[tracing.Annotation]
	switch {
	case want == "" && !there, there && has == want:
		return
	case there && old == nil, there && has != want:
		r.warn("metadata.annotations[%s]: it is set by the cluster; the value is not taken", tracing.Annotation)
	}
	// The map may belong to the stored object.
	mine := make(map[string]string, len(annotations)+1)
	for key, value := range annotations {
		mine[key] = value
	}
	if want == "" {
		delete(mine, tracing.Annotation)
	} else {
		mine[tracing.Annotation] = want
	}
	obj.SetAnnotations(mine)
}

// noteCreated keeps how long it took to admit a pod, from when its request began, and to store it, from when that was proposed. These steps are
// spans of the request already.
func (s *Service) noteCreated(pod *corev1.Pod, began, proposed time.Time) {
	created := timeline.PodOf(pod)
	created.Trace = ""
	s.timeline.Add(created, timeline.Step{Name: timeline.Admit, Began: began, Ended: proposed})
	s.timeline.Add(created, timeline.Since(timeline.Store, "", proposed, "", nil))
}
