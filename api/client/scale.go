package client

import (
	"context"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kontiki/kontiki/api/objects"
)

// Scale returns the scale subresource of an object of any kind that has one; the caller owns it. The errors are those of a request.
func (v View) Scale(kind *Kind, namespace, name string) (*autoscalingv1.Scale, error) {
	resource := schema.GroupResource{Group: kind.Group, Resource: kind.Resource + "/scale"}
	if kind.Scale == nil {
		return nil, apierrors.NewGenericServerResponse(404, "get", resource, name, "the server could not find the requested resource", 0, false)
	}
	obj, ok := v.GetOf(kind, namespace, name)
	if !ok {
		return nil, apierrors.NewNotFound(resource, name)
	}
	return objects.ScaleOf(kind, obj), nil
}

// UpdateScale replaces the scale subresource of an object of any kind that has one. It fails with a conflict if the object is not as it was
// when the scale was read.
func (c *Client) UpdateScale(ctx context.Context, kind *Kind, scale *autoscalingv1.Scale) (*autoscalingv1.Scale, error) {
	r := c.ref(kind, scale.Namespace, scale.Name)
	r.Subresource = "scale"
	return c.objects.UpdateScale(ctx, r, func(*autoscalingv1.Scale) (*autoscalingv1.Scale, error) { return scale, nil })
}
