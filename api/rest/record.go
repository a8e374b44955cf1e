package rest

import (
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/kontiki/kontiki/api/audit"
	"github.com/kontiki/kontiki/api/objects"
)

// attempt returns the request in the audit log's form.
func (c *call) attempt(sender user.Info) audit.Attempt {
	t := &c.target
	name := t.name
	if name == "" && (c.verb == "list" || c.verb == "watch") {
		name = audit.SelectedName(c.r.URL.Query().Get("fieldSelector"))
	}
	return audit.Attempt{
		HTTP: c.r, ID: c.Audit.ID(c.w, c.r), Received: time.Now(), LongRunning: objects.LongRunning(c.verb, t.subresource),
		Attributes: authorizer.AttributesRecord{
			User: sender, Verb: c.verb, APIGroup: t.group, APIVersion: t.version, Resource: t.resource, Subresource: t.subresource,
			Namespace: t.namespace, Name: name, ResourceRequest: c.isResource, Path: c.r.URL.Path,
		},
	}
}

// beginRecord starts recording the request.
func (c *call) beginRecord(sender user.Info) {
	c.record = c.Audit.Begin(c.attempt(sender))
	c.r = c.r.WithContext(audit.With(c.r.Context(), c.record))
	c.answer.record = c.record
}

// unauthenticated responds to a request whose credential is not valid.
func (c *call) unauthenticated() {
	err := apierrors.NewUnauthorized("Unauthorized")
	if c.Audit != nil {
		c.Audit.Unauthenticated(c.attempt(nil), objects.StatusOf(err))
	}
	c.fail(err)
}

// beginRecord starts recording an operation of a transaction.
func (t *txReader) beginRecord(verb objects.Verb, r *objects.Request) {
	op := objects.TxOperation{Verb: verb}
	t.record = t.call.record.Operation(t.place, authorizer.AttributesRecord{
		Verb: op.AccessVerb(), APIGroup: r.Kind.Group, APIVersion: r.Kind.Version, Resource: r.Kind.Resource, Subresource: r.Subresource,
		Namespace: r.Namespace, Name: accessName(verb, r), ResourceRequest: true,
	}, t.transaction.DryRun)
}
