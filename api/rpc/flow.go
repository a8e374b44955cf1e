package rpc

import (
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kontiki/kontiki/api/flow"
	"github.com/kontiki/kontiki/api/objects"
	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
)

// enter waits until the call's priority level has a seat for it, unless it holds one, or returns the error that it has none. What the
// call is about is known from its first message, or from its method alone if message is nil. Long-running calls take no seat, except
// for watches, which take it until they have sent their initial events.
func (c *caller) enter(message any) (err error) {
	if c.Limits == nil || c.seat.Load().Held() || c.method.verb != "watch" && c.method.longRunning {
		return nil
	}
	seat, class, err := c.Limits.Enter(c.r.Context(), c.flowRequest(message))
	c.seat.Store(seat)
	class.Headers(c.w.Header())
	return err
}

// flowRequest returns the call in the form in which flow decides about it: that of the equivalent REST request.
func (c *caller) flowRequest(message any) flow.Request {
	a := c.attributes(message)
	r := flow.Request{
		User: c.user, Verb: a.Verb, Path: a.Path, Group: a.APIGroup, Version: a.APIVersion, Resource: a.Resource, Subresource: a.Subresource,
		Namespace: a.Namespace, ObjectName: a.Name, Wait: flow.LongestWait(c.RequestTimeout), Health: objects.HealthPath(c.method.path),
	}
	var kind *kontikiv1.Kind
	switch m := message.(type) {
	case *kontikiv1.ListRequest:
		kind = m.Kind
	case *kontikiv1.WatchRequest:
		if m.SendInitialEvents || m.ResourceVersion == "" || m.ResourceVersion == "0" {
			kind = m.Kind
		}
	}
	if row, ok := c.Objects.Kinds().ByGVK(schema.GroupVersionKind{Group: kind.GetGroup(), Version: kind.GetVersion(), Kind: kind.GetKind()}); ok && r.ObjectName == "" {
		r.Bytes = c.Objects.ListBytes(row, r.Namespace, 0)
	}
	return r
}
