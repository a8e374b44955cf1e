package nodes

import (
	"context"
	"fmt"
	"hash/fnv"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/internal/wake"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

// WakeService implements NodeService. A worker decides nothing by it but when: which workload wakes is in the Service's annotation, which
// admission has checked, and it gets one replica if it has none. Of several workers and masters that do this at the same time, the update
// of one succeeds, and the others see that the workload is awake.
func (s *Server) WakeService(ctx context.Context, r *nodev1.WakeServiceRequest) (*nodev1.WakeServiceResponse, error) {
	node, ok := s.Caller(ctx)
	if !ok {
		return nil, status.Error(codes.PermissionDenied, "this needs a worker's certificate")
	}
	err := retry.OnError(retry.DefaultRetry, again, func() error {
		view, err := s.Client.Consistent(ctx)
		if err != nil {
			return err
		}
		service, ok := client.Get[*corev1.Service](view, r.Namespace, r.Name)
		if !ok {
			return status.Errorf(codes.FailedPrecondition, "service %.300q in namespace %.100q does not exist", r.Name, r.Namespace)
		}
		return s.wake(ctx, view, service, node)
	})
	switch _, ok := status.FromError(err); {
	case err == nil:
		return &nodev1.WakeServiceResponse{}, nil
	case ok:
		return nil, err
	}
	return nil, status.Error(codes.Unavailable, err.Error())
}

// wake gives the workload of a service a replica, if it has none. Its error has a gRPC status if another attempt would not change it.
func (s *Server) wake(ctx context.Context, view client.View, service *corev1.Service, node string) error {
	target, asks, err := wake.Of(service)
	if err == nil && !asks {
		err = fmt.Errorf("it has no annotation %s", wake.Annotation)
	}
	if err != nil {
		return status.Errorf(codes.FailedPrecondition, "service %s/%s wakes no workload: %v", service.Namespace, service.Name, err)
	}
	kind, ok := s.Client.KindNamed(target.Kind)
	if !ok {
		return status.Errorf(codes.FailedPrecondition, "kind %s is not served", target.Kind)
	}
	scale, err := view.Scale(kind, service.Namespace, target.Name)
	if err == nil && scale.Spec.Replicas > 0 {
		return nil
	}
	if err == nil {
		scale.Spec.Replicas = 1
		_, err = s.Client.UpdateScale(ctx, kind, scale)
	}
	switch {
	case err == nil:
		s.tell(ctx, service, corev1.EventTypeNormal, "Woken", fmt.Sprintf("A connection on node %s waits: scaled %s from 0 to 1", node, target), scale.ResourceVersion)
		return nil
	case transient(err):
		return err
	}
	s.tell(ctx, service, corev1.EventTypeWarning, "WakeFailed", fmt.Sprintf("A connection waits, but %s could not be scaled from 0 to 1: %v", target, err), "")
	return status.Errorf(codes.FailedPrecondition, "%s in namespace %s: %v", target, service.Namespace, err)
}

// tell creates an event of a service, unless there is one with the same text and distinction: so repeated failures add none.
func (s *Server) tell(ctx context.Context, service *corev1.Service, kind, reason, message, distinction string) {
	name := fnv.New64a()
	name.Write([]byte(reason + "\x00" + message + "\x00" + distinction))
	now := metav1.NewTime(time.Now())
	_, err := client.Create(ctx, s.Client, &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: service.Namespace, Name: fmt.Sprintf("%s.%x", service.Name, name.Sum64())},
		InvolvedObject: corev1.ObjectReference{APIVersion: "v1", Kind: "Service", Namespace: service.Namespace, Name: service.Name,
			UID: service.UID, ResourceVersion: service.ResourceVersion},
		Type: kind, Reason: reason, Message: message, Source: corev1.EventSource{Component: "wake-controller"},
		FirstTimestamp: now, LastTimestamp: now, Count: 1,
	})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		s.Log.Warn("event of a service is not stored", "service", service.Namespace+"/"+service.Name, "reason", reason, "error", err)
	}
}
