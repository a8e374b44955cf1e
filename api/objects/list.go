package objects

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/kontiki/kontiki/api/objects/views"
	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/internal/kv"
)

// ListOptions select the objects that a list returns. Nil selectors select everything.
type ListOptions struct {
	Labels               labels.Selector
	Fields               fields.Selector
	Limit                int64
	Continue             string
	ResourceVersion      string
	ResourceVersionMatch metav1.ResourceVersionMatch
}

// ListResult is one page, in order of key, of the state at one revision.
type ListResult struct {
	Items    []*kv.Version
	Revision uint64
	// Continue is the token for the next page; "" if this is the last one.
	Continue string
	// Remaining is the number of objects after this page, if that is known.
	Remaining *int64
}

// List returns the objects of a kind in a namespace (all if the request has none) at one revision.
func (s *Service) List(ctx context.Context, r *Request, o ListOptions) (*ListResult, error) {
	if err := r.serves("list"); err != nil {
		return nil, err
	}
	match, err := newMatcher(s, r.Kind, o.Labels, o.Fields)
	if err != nil {
		return nil, err
	}
	view, from, err := s.listView(ctx, r, o)
	if err != nil {
		return nil, err
	}
	if view, err = s.compute(ctx, r, o.Labels, view); err != nil {
		return nil, err
	}
	start := from.Start
	prefix := r.Kind.NamespacePrefix(r.Namespace)
	switch {
	case start == "":
		start = prefix
	case !strings.HasPrefix(start, prefix):
		return nil, apierrors.NewBadRequest("continue key is not valid: it belongs to another list")
	}
	end := kv.PrefixEnd(prefix)
	result := &ListResult{Revision: view.Revision()}
	if key, ok := match.onlyKey(r.Namespace); ok {
		if v, ok := view.Get(key); ok {
			if ok, err = match.matches(v); ok {
				result.Items = append(result.Items, v)
			}
		}
		return result, err
	}
	var next string
	view.Range(start, end, func(v *kv.Version) bool {
		var ok bool
		if ok, err = match.matches(v); err != nil {
			return false
		}
		if !ok {
			return true
		}
		if o.Limit > 0 && int64(len(result.Items)) == o.Limit {
			next = v.Key
			return false
		}
		result.Items = append(result.Items, v)
		return true
	})
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	s.Preload(r.Kind, result.Items)
	if next != "" {
		from.Revision, from.Start = int64(view.Revision()), next
		result.Continue = from.token()
		if match.everything {
			remaining := int64(view.Count(next, end))
			result.Remaining = &remaining
		}
	}
	return result, nil
}

// sampled is of how many objects the size is measured to estimate that of a list.
const sampled = 16

// ListBytes estimates how much memory the objects of a list take: those of a kind in a namespace (all if it is ""), at most limit if
// that is positive. It looks at a few objects, whatever their number.
func (s *Service) ListBytes(kind *registry.Kind, namespace string, limit int64) int64 {
	view := s.store.View()
	prefix := kind.NamespacePrefix(namespace)
	end := kv.PrefixEnd(prefix)
	var n, bytes int64
	view.Range(prefix, end, func(v *kv.Version) bool {
		n++
		bytes += int64(len(v.Value))
		return n < sampled
	})
	if n < sampled {
		return bytes
	}
	count := int64(view.Count(prefix, end))
	if limit > 0 {
		count = min(count, limit)
	}
	return count * (bytes / n)
}

// listView returns the view that a list reads, and where it continues.
func (s *Service) listView(ctx context.Context, r *Request, o ListOptions) (kv.View, continuation, error) {
	now := continuation{Began: s.now().Unix()}
	if o.Continue == "" {
		read := s.viewFor
		if o.ResourceVersionMatch == metav1.ResourceVersionMatchExact {
			read = func(ctx context.Context, resourceVersion string) (kv.View, error) {
				return s.exactView(ctx, r.Kind.Prefix(), resourceVersion)
			}
		}
		view, err := read(ctx, o.ResourceVersion)
		return view, now, err
	}
	if o.ResourceVersion != "" && o.ResourceVersion != "0" {
		return nil, now, apierrors.NewBadRequest("specifying resource version is not allowed when using continue")
	}
	from, err := parseContinue(o.Continue)
	if err != nil {
		return nil, now, apierrors.NewBadRequest(fmt.Sprintf("continue key is not valid: %v", err))
	}
	now.Start = from.Start
	if from.Revision < 0 {
		view, err := s.readView(ctx)
		return view, now, err
	}
	// The first page may have come from another master, but this one has the same history.
	if now.Began-from.Began < int64(continueLife/time.Second) {
		if view, err := views.At(ctx, s.store, r.Kind.Prefix(), uint64(from.Revision)); err == nil {
			return view, from, nil
		}
	}
	expired := apierrors.NewResourceExpired("The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.")
	expired.ErrStatus.ListMeta.Continue = continuation{Revision: -1, Start: from.Start}.token()
	return nil, now, expired
}

func (s *Service) exactView(ctx context.Context, prefix, resourceVersion string) (kv.View, error) {
	current, err := s.viewFor(ctx, resourceVersion)
	if err != nil {
		return nil, err
	}
	revision, _ := ParseRevision(resourceVersion)
	view, err := views.At(ctx, s.store, prefix, revision)
	if err != nil {
		return nil, InField("resourceVersion", apierrors.NewResourceExpired(fmt.Sprintf("The resourceVersion for the provided list is too old: %d (%d).", revision, current.Revision())))
	}
	return view, nil
}

// continueLife is how long a list can be continued at its revision, which is at least as long as upstream keeps past revisions. The
// history of an idle cluster may reach back further, but clients should not depend on that.
const continueLife = 5 * time.Minute

// continuation is the content of a continue token: the revision of the list (-1 for the newest), the key at which it continues, and
// when it began, in seconds.
type continuation struct {
	Version  string `json:"v"`
	Revision int64  `json:"rv"`
	Start    string `json:"start"`
	Began    int64  `json:"t"`
}

func (c continuation) token() string {
	c.Version = "kontiki/v1"
	raw, _ := json.Marshal(c) // a struct of plain fields can always be encoded
	return base64.RawURLEncoding.EncodeToString(raw)
}

func parseContinue(token string) (c continuation, err error) {
	raw, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		return c, err
	}
	if err := json.Unmarshal(raw, &c); err != nil {
		return c, err
	}
	if c.Version != "kontiki/v1" || c.Start == "" {
		return c, fmt.Errorf("it was not made by this server")
	}
	return c, nil
}

// matcher selects objects of one kind.
type matcher struct {
	service    *Service
	kind       *registry.Kind
	labels     labels.Selector
	fields     fields.Selector
	everything bool
	// name and namespace are set if only objects with that name, or in that namespace, can match.
	name, namespace string
}

func newMatcher(s *Service, kind *registry.Kind, label labels.Selector, field fields.Selector) (*matcher, error) {
	m := &matcher{service: s, kind: kind, labels: label, fields: field}
	if m.labels == nil {
		m.labels = labels.Everything()
	}
	if m.fields == nil {
		m.fields = fields.Everything()
	}
	if err := kind.CheckFieldSelector(m.fields); err != nil {
		return nil, InField("fieldSelector", apierrors.NewBadRequest(err.Error()))
	}
	m.everything = m.labels.Empty() && m.fields.Empty()
	if name, ok := m.fields.RequiresExactMatch("metadata.name"); ok {
		m.name = name
	}
	if namespace, ok := m.fields.RequiresExactMatch("metadata.namespace"); ok {
		m.namespace = namespace
	}
	return m, nil
}

// onlyKey returns the key of the only object that can match in a namespace ("" for all), if there is one.
func (m *matcher) onlyKey(namespace string) (string, bool) {
	if namespace == "" {
		namespace = m.namespace
	}
	if m.name == "" || (namespace == "" && m.kind.Namespaced) {
		return "", false
	}
	return m.kind.Key(namespace, m.name), true
}

func (m *matcher) matches(v *kv.Version) (bool, error) {
	if m.everything {
		return true, nil
	}
	if m.name != "" || m.namespace != "" { // the key suffices, without decoding
		namespace, name := m.kind.SplitKey(v.Key)
		if (m.name != "" && name != m.name) || (m.namespace != "" && namespace != m.namespace) {
			return false, nil
		}
	}
	obj, err := m.service.Decode(m.kind, v)
	if err != nil {
		return false, err
	}
	if !m.labels.Empty() && !m.labels.Matches(labels.Set(obj.GetLabels())) {
		return false, nil
	}
	return m.fields.Empty() || m.fields.Matches(m.kind.SelectableFields(obj)), nil
}
