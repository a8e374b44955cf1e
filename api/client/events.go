package client

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"

	"github.com/kontiki/kontiki/internal/contain"
)

// EventSink returns a sink that stores the events of client-go's recorder, which aggregates and rate-limits them as in Kubernetes.
func (c *Client) EventSink() record.EventSink { return eventSink{c} }

// eventSink is called in a goroutine of the recorder; a panic there would end the process.
type eventSink struct{ client *Client }

func (s eventSink) Create(event *corev1.Event) (stored *corev1.Event, err error) {
	defer contain.Recover(&err)
	return Create(context.Background(), s.client, event.DeepCopy())
}

func (s eventSink) Update(event *corev1.Event) (stored *corev1.Event, err error) {
	defer contain.Recover(&err)
	return Update(context.Background(), s.client, event.DeepCopy())
}

func (s eventSink) Patch(event *corev1.Event, data []byte) (stored *corev1.Event, err error) {
	defer contain.Recover(&err)
	return Patch(context.Background(), s.client, event, types.StrategicMergePatchType, data, "")
}
