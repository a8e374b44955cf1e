package rest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/kontiki/kontiki/api/audit"
	"github.com/kontiki/kontiki/api/auth"
	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/api/usage/history"
)

// Bounds of a question about usage: items of an answer, items with their points, and how often the authorizer is asked about a namespace.
const (
	usageLimit     = 100
	usageMost      = 1000
	usagePoints    = 8
	usageMostDrawn = 50
	usageQuestions = 2000
)

var usageResource = schema.GroupResource{Group: "kontiki", Resource: "usage"}

// serveUsage responds with what was used in the last day: GET /kontiki/v1/usage?of=nodes|namespaces|workloads|pods|containers with namespace=, kind=,
// name=, since= (a duration), by=cpu|memory, limit= and points=. The caller must be allowed to list the metrics of nodes, or of the pods of the
// namespace, or to get the one that is named. Of namespaces it sees those whose pods' metrics it may list. No rule has to name the path.
func (c *call) serveUsage() error {
	if c.UsageHistory == nil {
		return noSuchPath(c.r)
	}
	if c.r.Method != http.MethodGet {
		return apierrors.NewMethodNotSupported(usageResource, c.r.Method)
	}
	if auth.IsAnonymous(c.user) {
		return apierrors.NewUnauthorized("Unauthorized")
	}
	q, err := c.usageQuery()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.r.Context(), c.timeout())
	defer cancel()
	if q.Of == "namespaces" {
		q.Sees = c.seesUsage(ctx)
		c.record.Decided(true, "")
	} else {
		a := &authorizer.AttributesRecord{User: c.user, Verb: "list", APIGroup: "metrics.k8s.io", APIVersion: "v1", Resource: "pods", Namespace: q.Namespace, ResourceRequest: true}
		if q.Of == "nodes" {
			a.Resource = "nodes"
		}
		if q.Name != "" && q.Of != "workloads" {
			a.Verb, a.Name = "get", q.Name
		}
		if err := c.as.On(ctx, c.Authorizer, c.sender, a); err != nil {
			return err
		}
		if err := audit.Authorize(c.r.Context(), c.Authorizer, a); err != nil {
			return err
		}
	}
	body, err := json.Marshal(c.UsageHistory.Read(q, time.Now())) // in one line, as it has many numbers
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	c.w.Header().Set("Content-Type", typeJSON)
	c.w.Write(body)
	return nil
}

// seesUsage returns a function that says whether the caller may list the metrics of a namespace's pods.
func (c *call) seesUsage(ctx context.Context) func(string) bool {
	asked := 0
	may := func(namespace string) bool {
		a := &authorizer.AttributesRecord{User: c.user, Verb: "list", APIGroup: "metrics.k8s.io", APIVersion: "v1", Resource: "pods", Namespace: namespace, ResourceRequest: true}
		return c.as.On(ctx, c.Authorizer, c.sender, a) == nil && auth.Check(ctx, c.Authorizer, a) == nil
	}
	if may("") {
		return nil
	}
	return func(namespace string) bool {
		asked++
		return asked <= usageQuestions && may(namespace)
	}
}

func (c *call) usageQuery() (q history.Query, err error) {
	query := c.r.URL.Query()
	q = history.Query{Of: query.Get("of"), Namespace: query.Get("namespace"), Kind: query.Get("kind"), Name: query.Get("name"), Since: 24 * time.Hour}
	bad := func(field, message string) error {
		return objects.InField(field, apierrors.NewBadRequest(field+": "+message))
	}
	if !slices.Contains(history.Kinds, q.Of) {
		return q, bad("of", "must be one of "+strings.Join(history.Kinds, ", "))
	}
	if q.Namespace != "" && !history.Namespaced(q.Of) {
		return q, bad("namespace", "is not for "+q.Of)
	}
	if q.Kind != "" && q.Of != "workloads" {
		return q, bad("kind", "is for workloads only")
	}
	if q.Name != "" && q.Namespace == "" && history.Namespaced(q.Of) {
		return q, bad("namespace", "is required with name")
	}
	if text := query.Get("since"); text != "" {
		if q.Since, err = time.ParseDuration(text); err != nil || q.Since < time.Minute || q.Since > 24*time.Hour {
			return q, bad("since", "must be a duration from 1m to 24h, such as 6h")
		}
	}
	switch by := query.Get("by"); by {
	case "", "cpu":
	case "memory":
		q.ByMemory = true
	default:
		return q, bad("by", "must be cpu or memory")
	}
	number := func(field string, least, most, otherwise int) (int, error) {
		text := query.Get(field)
		if text == "" {
			return otherwise, nil
		}
		n, err := strconv.Atoi(text)
		if err != nil || n < least || n > most {
			return 0, bad(field, fmt.Sprintf("must be a number from %d to %d", least, most))
		}
		return n, nil
	}
	if q.Limit, err = number("limit", 1, usageMost, usageLimit); err != nil {
		return q, err
	}
	q.Points, err = number("points", 0, usageMostDrawn, usagePoints)
	return q, err
}
