package rest

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/kontiki/kontiki/api/audit"
	"github.com/kontiki/kontiki/api/auth"
	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/api/objects/deleted"
)

// A list of deleted objects has this many unless ?limit= asks for another number, up to the most.
const (
	deletedLimit = 1000
	deletedMost  = 10000
)

// deletedList is the response to GET /kontiki/v1/deleted: the deleted objects that are kept and that the caller may list, from the
// latest to the oldest. More says that there are older ones than the limit of the list allows; ?continue=, with what Continue has, lists them.
type deletedList struct {
	Items    []deletedItem `json:"items"`
	More     bool          `json:"more,omitempty"`
	Continue string        `json:"continue,omitempty"`
}

type deletedItem struct {
	UID        string      `json:"uid"`
	APIVersion string      `json:"apiVersion"`
	Kind       string      `json:"kind"`
	Group      string      `json:"group,omitempty"`
	Resource   string      `json:"resource"`
	ShortNames []string    `json:"shortNames,omitempty"`
	Namespaced bool        `json:"namespaced"`
	Namespace  string      `json:"namespace,omitempty"`
	Name       string      `json:"name"`
	Deleted    metav1.Time `json:"deleted"`
	User       string      `json:"user,omitempty"`
}

// serveDeleted lists the deleted objects that are kept (?namespace=, ?limit=, ?continue=), or responds with one by its UID, as it was stored last, or
// drops one. The caller must be allowed to list, get or delete such an object, in all namespaces if the one that it was in is gone; no rule
// has to name the path.
func (c *call) serveDeleted() error {
	uid, one := strings.CutPrefix(c.r.URL.Path, objects.DeletedPath+"/")
	if c.r.Method != http.MethodGet && !(one && c.r.Method == http.MethodDelete) {
		return apierrors.NewMethodNotSupported(deletedResource, c.r.Method)
	}
	if auth.IsAnonymous(c.user) {
		return apierrors.NewUnauthorized("Unauthorized")
	}
	ctx, cancel := context.WithTimeout(c.r.Context(), c.timeout())
	defer cancel()
	if one {
		return c.serveOneDeleted(ctx, types.UID(uid))
	}
	return c.listDeleted(ctx)
}

var deletedResource = schema.GroupResource{Group: "kontiki", Resource: "deletedobjects"}

func (c *call) serveOneDeleted(ctx context.Context, uid types.UID) error {
	o, scope, err := c.Objects.DeletedByUID(ctx, uid)
	if err != nil {
		return err
	}
	a := &authorizer.AttributesRecord{User: c.user, Verb: c.verb, APIGroup: o.Group, Resource: o.Resource, Namespace: scope, Name: o.Name, ResourceRequest: true}
	obj, err := c.Objects.DecodeDeleted(o)
	if err == nil {
		a.APIVersion = obj.GetObjectKind().GroupVersionKind().Version
	}
	if err := c.as.On(ctx, c.Authorizer, c.sender, a); err != nil {
		return err
	}
	if err := audit.Authorize(c.r.Context(), c.Authorizer, a); err != nil {
		return err
	}
	if c.r.Method == http.MethodDelete { // also one that cannot be decoded
		switch dry := c.r.URL.Query()["dryRun"]; {
		case len(dry) > 0 && !slices.Equal(dry, []string{metav1.DryRunAll}):
			return objects.InField("dryRun", apierrors.NewBadRequest("dryRun: must be All"))
		case len(dry) == 0:
			if err := c.Objects.ForgetDeleted(ctx, uid); err != nil {
				return err
			}
		}
		writeJSON(c.w, http.StatusOK, &metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusSuccess})
		return nil
	}
	if err != nil {
		return err
	}
	writeJSON(c.w, http.StatusOK, obj)
	return nil
}

func (c *call) listDeleted(ctx context.Context) error {
	query := c.r.URL.Query()
	limit := deletedLimit
	if text := query.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > deletedMost {
			return objects.InField("limit", apierrors.NewBadRequest(fmt.Sprintf("limit: must be a number from 1 to %d", deletedMost)))
		}
		limit = n
	}
	before, last := query.Get("continue"), ""
	type place struct{ group, resource, scope string }
	may := map[place]bool{}
	list := deletedList{Items: []deletedItem{}}
	err := c.Objects.Deleted(ctx, func(o *deleted.Object, scope string) bool {
		if in := query.Get("namespace"); in != "" && in != o.Namespace && !(o.Group == "" && o.Resource == "namespaces" && o.Name == in) {
			return true
		}
		key := strings.TrimPrefix(deleted.Key(o), deleted.Prefix)
		if before != "" && key >= before {
			return true
		}
		kind, ok := c.Objects.Kinds().ByGroupResource(o.Group, o.Resource)
		if !ok {
			return true
		}
		at := place{o.Group, o.Resource, scope}
		allowed, asked := may[at]
		if !asked {
			allowed = c.mayList(ctx, kind.Version, at.group, at.resource, at.scope)
			may[at] = allowed
		}
		if !allowed {
			return true
		}
		if len(list.Items) == limit {
			list.More, list.Continue = true, last
			return false
		}
		last = key
		list.Items = append(list.Items, deletedItem{
			UID: o.Uid, APIVersion: kind.GroupVersion().String(), Kind: kind.Kind, Group: o.Group, Resource: o.Resource, ShortNames: kind.ShortNames,
			Namespaced: kind.Namespaced, Namespace: o.Namespace, Name: o.Name, Deleted: metav1.NewTime(time.Unix(0, o.Deleted).UTC()), User: o.User,
		})
		return true
	})
	if err != nil {
		return err
	}
	c.record.Decided(true, "")
	writeJSON(c.w, http.StatusOK, list)
	return nil
}

func (c *call) mayList(ctx context.Context, version, group, resource, namespace string) bool {
	a := &authorizer.AttributesRecord{User: c.user, Verb: "list", APIGroup: group, APIVersion: version, Resource: resource, Namespace: namespace, ResourceRequest: true}
	return c.as.On(ctx, c.Authorizer, c.sender, a) == nil && auth.Check(ctx, c.Authorizer, a) == nil
}
