package rest

import (
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/kontiki/kontiki/api/audit"
	"github.com/kontiki/kontiki/api/objects"
)

// attempt returns the request in the audit log's form.
func (c *call) attempt(sender user.Info) audit.Attempt {
	attempt := audit.Attempt{
		HTTP: c.r, ID: c.Audit.ID(c.w, c.r), Received: time.Now(), LongRunning: objects.LongRunning(c.verb, c.target.subresource),
		Attributes: c.asked,
	}
	attempt.Attributes.User = sender
	return attempt
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
	op := objects.TxOperation{Verb: verb, Request: r}
	t.record = t.call.record.Operation(t.place, *op.Attributes(), t.transaction.DryRun)
}
