package rest

import (
	"strconv"
	"time"

	"github.com/kontiki/kontiki/api/flow"
	"github.com/kontiki/kontiki/api/objects"
)

// enter waits until the request's priority level has a seat for it, or returns the error that it has none. Long-running requests
// take none, except for watches, which take it until they have sent their initial events.
func (c *call) enter() (err error) {
	if c.Limits == nil || c.verb != "watch" && objects.LongRunning(c.verb, c.target.subresource) {
		return nil
	}
	began := time.Now()
	seat, class, err := c.Limits.Enter(c.r.Context(), c.flowRequest())
	c.measured.waited = time.Since(began)
	c.seat.Store(seat)
	class.Headers(c.w.Header())
	return err
}

// leave gives the request's seats back.
func (c *call) leave() { c.seat.Load().Leave() }

// flowRequest returns the request in the form in which flow decides about it.
func (c *call) flowRequest() flow.Request {
	a := c.asked
	r := flow.Request{
		User: c.user, Verb: a.Verb, Path: a.Path, Group: a.APIGroup, Version: a.APIVersion, Resource: a.Resource, Subresource: a.Subresource,
		Namespace: a.Namespace, ObjectName: a.Name, Wait: flow.LongestWait(c.timeout()),
		Health: !c.isResource && objects.HealthPath(a.Path),
	}
	if c.verb != "list" && c.verb != "watch" {
		return r
	}
	query := c.r.URL.Query()
	if c.kind == nil || r.ObjectName != "" || c.verb == "watch" && !sendsInitialEvents(query.Get("sendInitialEvents"), query.Get("resourceVersion")) {
		return r
	}
	limit, _ := strconv.ParseInt(query.Get("limit"), 10, 64) // a wrong one is refused later
	r.Bytes = c.Objects.ListBytes(c.kind, c.target.namespace, limit)
	return r
}

// sendsInitialEvents says whether a watch with these parameters begins with the present objects.
func sendsInitialEvents(asked, resourceVersion string) bool {
	if asked != "" {
		return isTrue(asked)
	}
	return resourceVersion == "" || resourceVersion == "0"
}
