package authz

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/internal/kv"
)

// Decode decodes a stored object, which is shared and read-only.
type Decode func(*registry.Kind, *kv.Version) (registry.Object, error)

// Rules are the rules of the stored roles, found by the subjects that they are bound to. It is safe for concurrent use.
//
// The index is brought up to date with the store's history when it is used, so it needs no goroutine, and a decision contains
// everything that this replica has applied. If nothing about roles has changed, that costs a look at four cursors.
type Rules struct {
	store kv.Reader
	kinds [4]*registry.Kind // roles, bindings, cluster roles, cluster role bindings
	// Decode must be set before the first use.
	Decode Decode

	// revision is the one that the index certainly contains.
	revision atomic.Uint64

	mu       sync.RWMutex
	watchers []kv.Watcher // of the kinds; none if the index must be built again
	// ahead are changes that were read, but are newer than the revision: a decision never sees a part of a command.
	ahead    [4][]*kv.Event
	roles    map[roleKey]*role
	bindings map[string]*binding // by the key in the store
	bound    map[subject][]*grant
	anywhere map[subject][]*grant // by subjects without a namespace
}

// roleKey identifies a role; the namespace of a ClusterRole is "".
type roleKey struct{ namespace, name string }

type role struct {
	rules []rbacv1.PolicyRule
	err   error // it could not be decoded
}

// binding is a RoleBinding or a ClusterRoleBinding.
type binding struct {
	role   roleKey
	ref    rbacv1.RoleRef
	grants map[subject]*grant
}

// subject is a user or a group, as the subject of bindings in a namespace; "" are ClusterRoleBindings.
type subject struct {
	namespace, name string
	group           bool
}

// grant is a binding as far as it concerns one subject.
type grant struct {
	binding *binding
	reason  string // for being allowed something, in upstream's words
	source  string
}

// String describes the binding.
func (g *grant) String() string { return g.source }

// NewRules returns the rules in a store.
func NewRules(store kv.Reader, table *registry.Table) *Rules {
	r := &Rules{store: store}
	for i, resource := range [4]string{"roles", "rolebindings", "clusterroles", "clusterrolebindings"} {
		r.kinds[i], _ = table.ByGroupResource(rbacv1.GroupName, resource)
	}
	return r
}

// visit calls visit with the rules that apply to a user in a namespace, until visit returns false: first those that apply in the
// whole cluster.
func (r *Rules) visit(u user.Info, namespace string, visit func(*grant, []rbacv1.PolicyRule, error) bool) {
	r.catchUp()
	r.mu.RLock()
	defer r.mu.RUnlock()
	scopes := [2]string{"", namespace}
	for i, scope := range scopes {
		if i > 0 && scope == "" {
			return
		}
		if !r.visitSubject(r.bound[subject{scope, u.GetName(), false}], visit) {
			return
		}
		for _, group := range u.GetGroups() {
			if !r.visitSubject(r.bound[subject{scope, group, true}], visit) {
				return
			}
		}
	}
}

func (r *Rules) visitSubject(grants []*grant, visit func(*grant, []rbacv1.PolicyRule, error) bool) bool {
	for _, g := range grants {
		rules, err := r.rulesOf(g.binding)
		if !visit(g, rules, err) {
			return false
		}
	}
	return true
}

// visitAnywhere calls visit with the rules that apply to a user in any namespace, until visit returns false.
func (r *Rules) visitAnywhere(u user.Info, visit func([]rbacv1.PolicyRule) bool) {
	r.catchUp()
	r.mu.RLock()
	defer r.mu.RUnlock()
	each := func(_ *grant, rules []rbacv1.PolicyRule, _ error) bool { return visit(rules) }
	if !r.visitSubject(r.anywhere[subject{name: u.GetName()}], each) {
		return
	}
	for _, group := range u.GetGroups() {
		if !r.visitSubject(r.anywhere[subject{name: group, group: true}], each) {
			return
		}
	}
}

// rulesOf returns the rules of the role that a binding refers to. The caller holds mu.
func (r *Rules) rulesOf(b *binding) ([]rbacv1.PolicyRule, error) {
	found := r.roles[b.role]
	switch {
	case b.ref.Kind != "Role" && b.ref.Kind != "ClusterRole":
		return nil, fmt.Errorf("unsupported role reference kind: %q", b.ref.Kind)
	case found != nil:
		return found.rules, found.err
	case b.ref.Kind == "Role":
		return nil, apierrors.NewNotFound(rbacv1.Resource("role"), b.ref.Name)
	}
	return nil, apierrors.NewNotFound(rbacv1.Resource("clusterrole"), b.ref.Name)
}

// catchUp brings the index to the revision of the store's view.
func (r *Rules) catchUp() {
	now := r.store.View().Revision()
	if r.revision.Load() >= now || r.unchanged(now) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.revision.Load() >= now {
		return
	}
	if len(r.watchers) == 0 || !r.follow(now) {
		r.build()
	}
}

// unchanged says whether no role or binding has changed up to a revision.
func (r *Rules) unchanged(now uint64) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if len(r.watchers) == 0 {
		return false
	}
	for i, w := range r.watchers {
		if len(r.ahead[i]) > 0 || w.Progress() < now {
			return false
		}
	}
	for {
		before := r.revision.Load()
		if before >= now || r.revision.CompareAndSwap(before, now) {
			return true
		}
	}
}

// ended is a context that has ended: what is in the history already need not be waited for.
var ended = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// follow applies the history up to a revision; it returns false if the history does not reach back far enough. The caller holds mu.
func (r *Rules) follow(now uint64) bool {
	for i, w := range r.watchers {
		for {
			events, progress, err := w.Next(ended)
			r.ahead[i] = append(r.ahead[i], events...)
			if err == nil {
				continue
			}
			if !errors.Is(err, ended.Err()) || progress < now {
				return false
			}
			break
		}
		applied := 0
		for ; applied < len(r.ahead[i]) && r.ahead[i][applied].Revision <= now; applied++ {
			r.set(i, r.ahead[i][applied])
		}
		r.ahead[i] = slices.Delete(r.ahead[i], 0, applied)
	}
	r.revision.Store(now)
	return true
}

// build builds the index from a view. The caller holds mu.
func (r *Rules) build() {
	for _, w := range r.watchers {
		w.Close()
	}
	r.watchers, r.ahead = nil, [4][]*kv.Event{}
	r.roles, r.bindings = map[roleKey]*role{}, map[string]*binding{}
	r.bound, r.anywhere = map[subject][]*grant{}, map[subject][]*grant{}
	view := r.store.View()
	var watchers []kv.Watcher
	for i, kind := range r.kinds {
		if w, err := r.store.Watch(kind.Prefix(), view.Revision()); err == nil {
			watchers = append(watchers, w)
		}
		view.Range(kind.Prefix(), kv.PrefixEnd(kind.Prefix()), func(v *kv.Version) bool {
			r.set(i, &kv.Event{Type: kv.Put, Current: v})
			return true
		})
	}
	r.revision.Store(view.Revision())
	if len(watchers) == len(r.kinds) {
		r.watchers = watchers
		return
	}
	// The history moved on meanwhile, or cannot be watched: the next decision builds the index again.
	for _, w := range watchers {
		w.Close()
	}
}

// set applies one change of an object of one of the kinds. The caller holds mu.
func (r *Rules) set(of int, event *kv.Event) {
	kind, key := r.kinds[of], event.Current.Key
	namespace, name := kind.SplitKey(key)
	bindings := of%2 == 1
	if bindings {
		r.unbind(r.bindings[key])
		delete(r.bindings, key)
	} else {
		delete(r.roles, roleKey{namespace, name})
	}
	if event.Type != kv.Put {
		return
	}
	obj, err := r.Decode(kind, event.Current)
	if err != nil && !bindings {
		r.roles[roleKey{namespace, name}] = &role{err: fmt.Errorf("%s %s/%s: %w", kind.Kind, namespace, name, err)}
		return
	}
	switch obj := obj.(type) {
	case *rbacv1.Role:
		r.roles[roleKey{namespace, name}] = &role{rules: obj.Rules}
	case *rbacv1.ClusterRole:
		r.roles[roleKey{namespace, name}] = &role{rules: obj.Rules}
	case *rbacv1.RoleBinding:
		r.bind(key, namespace, fmt.Sprintf("RoleBinding %q", name+"/"+namespace), obj.RoleRef, obj.Subjects)
	case *rbacv1.ClusterRoleBinding:
		r.bind(key, "", fmt.Sprintf("ClusterRoleBinding %q", name), obj.RoleRef, obj.Subjects)
	}
}

// bind adds a binding.
func (r *Rules) bind(key, namespace, title string, ref rbacv1.RoleRef, subjects []rbacv1.Subject) {
	b := &binding{role: roleKey{name: ref.Name}, ref: ref, grants: map[subject]*grant{}}
	if ref.Kind == "Role" {
		b.role.namespace = namespace
	}
	for i := range subjects {
		s, described, ok := subjectOf(&subjects[i], namespace)
		if !ok || b.grants[s] != nil {
			continue
		}
		source := fmt.Sprintf("%s of %s %q to %s", title, ref.Kind, ref.Name, described)
		g := &grant{binding: b, source: source, reason: "RBAC: allowed by " + source}
		b.grants[s] = g
		r.bound[s] = append(r.bound[s], g)
		s.namespace = ""
		r.anywhere[s] = append(r.anywhere[s], g)
	}
	r.bindings[key] = b
}

// subjectOf returns a binding's subject as it is looked up, and described in upstream's words.
func subjectOf(s *rbacv1.Subject, namespace string) (of subject, described string, ok bool) {
	switch s.Kind {
	case rbacv1.UserKind:
		return subject{namespace, s.Name, false}, fmt.Sprintf("%s %q", s.Kind, s.Name), true
	case rbacv1.GroupKind:
		return subject{namespace, s.Name, true}, fmt.Sprintf("%s %q", s.Kind, s.Name), true
	case rbacv1.ServiceAccountKind:
		in := s.Namespace
		if in == "" {
			in = namespace
		}
		if in == "" {
			return subject{}, "", false
		}
		return subject{namespace, serviceaccount.MakeUsername(in, s.Name), false}, fmt.Sprintf("%s %q", s.Kind, s.Name+"/"+in), true
	}
	return subject{}, "", false
}

// unbind removes a binding, which may be nil.
func (r *Rules) unbind(b *binding) {
	if b == nil {
		return
	}
	for s, g := range b.grants {
		drop(r.bound, s, g)
		s.namespace = ""
		drop(r.anywhere, s, g)
	}
}

func drop(from map[subject][]*grant, s subject, g *grant) {
	if rest := slices.DeleteFunc(from[s], func(have *grant) bool { return have == g }); len(rest) > 0 {
		from[s] = rest
	} else {
		delete(from, s)
	}
}
