package rest

import (
	"context"
	"fmt"
	"net/http"
	"strconv"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/kontiki/kontiki/api/auth"
	"github.com/kontiki/kontiki/api/journal"
	"github.com/kontiki/kontiki/api/objects"
)

// An answer of the journal has this many entries unless ?limit= asks for another number, up to the most. It asks the authorizer at most
// journalQuestions times; entries about which it would have to ask more are left out.
const (
	journalLimit     = 500
	journalMost      = 5000
	journalQuestions = 2000
)

var journalResource = schema.GroupResource{Group: "kontiki", Resource: "journal"}

// serveJournal responds with this master's journal, from the newest entry to the oldest (?namespace=, ?uid=, ?limit=, ?before=). The caller sees
// the changes of objects that it may list or get, and events that it may list; no rule has to name the path.
func (c *call) serveJournal() error {
	if c.r.Method != http.MethodGet {
		return apierrors.NewMethodNotSupported(journalResource, c.r.Method)
	}
	if auth.IsAnonymous(c.user) {
		return apierrors.NewUnauthorized("Unauthorized")
	}
	if c.Journal == nil {
		return apierrors.NewGenericServerResponse(http.StatusNotFound, "get", journalResource, "", "this master keeps no journal (--journal-size)", 0, true)
	}
	q, err := c.journalQuery()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.r.Context(), c.timeout())
	defer cancel()
	page, err := c.Journal.Read(ctx, q, c.seesEntry(ctx))
	if ctx.Err() != nil {
		return apierrors.NewTimeoutError("the journal could not be read in time", 1)
	}
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	c.record.Decided(true, "")
	writeJSON(c.w, http.StatusOK, page)
	return nil
}

func (c *call) journalQuery() (q journal.Query, err error) {
	query := c.r.URL.Query()
	q = journal.Query{Namespace: query.Get("namespace"), UID: query.Get("uid"), Limit: journalLimit}
	if text := query.Get("limit"); text != "" {
		if q.Limit, err = strconv.Atoi(text); err != nil || q.Limit < 1 || q.Limit > journalMost {
			return q, objects.InField("limit", apierrors.NewBadRequest(fmt.Sprintf("limit: must be a number from 1 to %d", journalMost)))
		}
	}
	if text := query.Get("before"); text != "" {
		if q.Before, err = strconv.ParseUint(text, 10, 64); err != nil {
			return q, objects.InField("before", apierrors.NewBadRequest("before: must be the number that an earlier answer has as before"))
		}
	}
	return q, nil
}

// seesEntry returns a function that says whether the caller may see an entry. It remembers what it has asked.
func (c *call) seesEntry(ctx context.Context) func(*journal.Entry) bool {
	type place struct{ verb, group, resource, namespace, name string }
	answers := map[place]bool{}
	may := func(p place, version string) bool {
		allowed, asked := answers[p]
		if !asked && len(answers) < journalQuestions {
			a := &authorizer.AttributesRecord{
				User: c.user, Verb: p.verb, APIGroup: p.group, APIVersion: version, Resource: p.resource, Namespace: p.namespace, Name: p.name, ResourceRequest: true,
			}
			allowed = c.as.On(ctx, c.Authorizer, c.sender, a) == nil && auth.Check(ctx, c.Authorizer, a) == nil
			answers[p] = allowed
		}
		return allowed
	}
	scopes := c.journalScopes()
	return func(e *journal.Entry) bool {
		if e.What == journal.Missing {
			return true
		}
		kind, ok := c.Objects.Kinds().ByGroupResource(e.Group, e.Resource)
		if !ok {
			return false
		}
		scope, present := scopes(e)
		if may(place{"list", e.Group, e.Resource, scope, ""}, kind.Version) {
			return true
		}
		return present && e.What != journal.Happened && may(place{"get", e.Group, e.Resource, scope, e.Name}, kind.Version)
	}
}

// journalScopes returns a function that says in which namespace rights on an entry count: the one that it was in or, if that does not exist any more,
// though one of the same name may, all of them (""). present says whether it is the former.
func (c *call) journalScopes() func(e *journal.Entry) (scope string, present bool) {
	view := c.Objects.Store().View()
	kind, ok := c.Objects.Kinds().ByGroupResource("", "namespaces")
	since := map[string]uint64{} // the revision at which the namespace was created, 0 if there is none
	return func(e *journal.Entry) (string, bool) {
		if e.Namespace == "" {
			return "", true
		}
		created, known := since[e.Namespace]
		if !known && ok {
			if v, exists := view.Get(kind.Key("", e.Namespace)); exists {
				created = v.CreateRevision
			}
			since[e.Namespace] = created
		}
		if created == 0 || e.Revision < created {
			return "", false
		}
		return e.Namespace, true
	}
}
