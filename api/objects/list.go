package objects

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/internal/kv"
)

// ListOptions select what a list answers. Nil selectors select everything.
type ListOptions struct {
	Labels               labels.Selector
	Fields               fields.Selector
	Limit                int64
	Continue             string
	ResourceVersion      string
	ResourceVersionMatch metav1.ResourceVersionMatch
}

// ListResult is one page, in key order, of the state at one revision.
type ListResult struct {
	Items    []*kv.Version
	Revision uint64
	// Continue asks for the next page; "" when this is the last.
	Continue string
	// Remaining is how many objects follow, when that is known.
	Remaining *int64
}

// List answers the objects of a kind in a namespace (all when the request names none) at one revision.
func (s *Service) List(ctx context.Context, r *Request, o ListOptions) (*ListResult, error) {
	match, err := newMatcher(s, r.Kind, o.Labels, o.Fields)
	if err != nil {
		return nil, err
	}
	view, start, err := s.listView(ctx, r, o)
	if err != nil {
		return nil, err
	}
	prefix := r.Kind.NamespacePrefix(r.Namespace)
	switch {
	case start == "":
		start = prefix
	case !strings.HasPrefix(start, prefix):
		return nil, apierrors.NewBadRequest("continue key is not valid: it is not of this list")
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
	if next != "" {
		s.pages.keep(view) // for when the history does not reach back that far
		result.Continue = continueToken(int64(view.Revision()), next)
		if match.everything {
			remaining := int64(view.Count(next, end))
			result.Remaining = &remaining
		}
	}
	return result, nil
}

// listView finds the view that a list reads, and the key it goes on from.
func (s *Service) listView(ctx context.Context, r *Request, o ListOptions) (kv.View, string, error) {
	if o.Continue == "" {
		if o.ResourceVersionMatch == metav1.ResourceVersionMatchExact {
			return s.exactView(ctx, r.Kind.Prefix(), o.ResourceVersion)
		}
		view, err := s.viewFor(ctx, o.ResourceVersion)
		return view, "", err
	}
	if o.ResourceVersion != "" && o.ResourceVersion != "0" {
		return nil, "", apierrors.NewBadRequest("specifying resource version is not allowed when using continue")
	}
	revision, start, err := parseContinue(o.Continue)
	if err != nil {
		return nil, "", apierrors.NewBadRequest(fmt.Sprintf("continue key is not valid: %v", err))
	}
	if revision < 0 {
		view, err := s.readView(ctx)
		return view, start, err
	}
	if view, ok := s.pages.find(uint64(revision)); ok {
		return view, start, nil
	}
	// The first page may have come from another master: this one has the same history.
	if view, err := s.viewAt(ctx, r.Kind.Prefix(), uint64(revision)); err == nil {
		return view, start, nil
	}
	expired := apierrors.NewResourceExpired("The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.")
	expired.ErrStatus.ListMeta.Continue = continueToken(-1, start)
	return nil, "", expired
}

func (s *Service) exactView(ctx context.Context, prefix, resourceVersion string) (kv.View, string, error) {
	current, err := s.viewFor(ctx, resourceVersion)
	if err != nil {
		return nil, "", err
	}
	revision, _ := ParseRevision(resourceVersion)
	if view, ok := s.pages.find(revision); ok {
		return view, "", nil
	}
	view, err := s.viewAt(ctx, prefix, revision)
	if err != nil {
		return nil, "", InField("resourceVersion", apierrors.NewResourceExpired(fmt.Sprintf("The resourceVersion for the provided list is too old: %d (%d).", revision, current.Revision())))
	}
	return view, "", nil
}

// pages keeps the views that continue tokens name, so that the pages of a list show one revision. Bounded: a list that
// is read too slowly gets 410 and a token to go on with at the newest state.
type pages struct {
	mu    sync.Mutex
	views []kv.View // oldest first
}

const maxPages = 32

func newPages() *pages { return &pages{} }

func (p *pages) keep(view kv.View) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, have := range p.views {
		if have.Revision() == view.Revision() {
			return
		}
	}
	if len(p.views) == maxPages {
		copy(p.views, p.views[1:])
		p.views = p.views[:maxPages-1]
	}
	p.views = append(p.views, view)
}

func (p *pages) find(revision uint64) (kv.View, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, view := range p.views {
		if view.Revision() == revision {
			return view, true
		}
	}
	return nil, false
}

type continuation struct {
	Version  string `json:"v"`
	Revision int64  `json:"rv"`
	Start    string `json:"start"`
}

func continueToken(revision int64, start string) string {
	raw, _ := json.Marshal(continuation{"kontiki/v1", revision, start}) // a struct of plain fields always encodes
	return base64.RawURLEncoding.EncodeToString(raw)
}

func parseContinue(token string) (int64, string, error) {
	raw, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		return 0, "", err
	}
	var c continuation
	if err := json.Unmarshal(raw, &c); err != nil {
		return 0, "", err
	}
	if c.Version != "kontiki/v1" || c.Start == "" {
		return 0, "", fmt.Errorf("it was not made by this server")
	}
	return c.Revision, c.Start, nil
}

// matcher is a selection of objects of one kind.
type matcher struct {
	service    *Service
	kind       *registry.Kind
	labels     labels.Selector
	fields     fields.Selector
	everything bool
	// name and namespace are set when only objects of that name, or in that namespace, can match.
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
		return nil, InField("fieldSelector", apierrors.NewBadRequest(fmt.Sprintf("Unable to find %q that match label selector %q, field selector %q: %v",
			kind.GroupVersion().WithResource(kind.Resource), m.labels, m.fields, err)))
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

// onlyKey is the key of the one object that can match in a namespace ("" for all), if there is such one.
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
	if m.name != "" || m.namespace != "" { // the key tells without decoding
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
