package client

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
)

// EventSink stores events for client-go's recorder, which aggregates and rate-limits them as everywhere in Kubernetes.
func (c *Client) EventSink() record.EventSink { return eventSink{c} }

type eventSink struct{ client *Client }

func (s eventSink) Create(event *corev1.Event) (*corev1.Event, error) {
	return Create(context.Background(), s.client, event.DeepCopy())
}

func (s eventSink) Update(event *corev1.Event) (*corev1.Event, error) {
	return Update(context.Background(), s.client, event.DeepCopy())
}

func (s eventSink) Patch(event *corev1.Event, data []byte) (*corev1.Event, error) {
	return Patch(context.Background(), s.client, event, types.StrategicMergePatchType, data, "")
}
