package garbage

import (
	"slices"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/api/client"
)

// item is an object that owner references name, that has some, or that waits for its dependents. It is immutable: a change of the
// object creates a new item.
type item struct {
	kind            *client.Kind
	namespace, name string
	uid             types.UID
	refs            []metav1.OwnerReference
	// foreground and orphaning mean that it is being deleted and waits until its dependents are deleted, or orphaned.
	foreground, orphaning bool
}

// owned has the dependents of one owner.
type owned struct {
	dependents map[types.UID]*item
	// gone means that the owner's removal was seen here, looked that other namespaces were searched for it.
	gone, looked bool
}

// graph contains the ownership edges as of the last change that was processed. Objects without owners that own nothing and wait for
// nothing are not in it. It is safe for concurrent use; changes come from one goroutine, in order of revision.
type graph struct {
	mu     sync.Mutex
	items  map[types.UID]*item  // dependents, and objects that wait
	owners map[types.UID]*owned // by the owner's UID, whether or not it exists
}

func newGraph() *graph {
	return &graph{items: map[types.UID]*item{}, owners: map[types.UID]*owned{}}
}

// put records the present state of an object, and returns its previous item (nil if there was none).
func (g *graph) put(kind *client.Kind, obj client.Object) (now, before *item) {
	deleting := obj.GetDeletionTimestamp() != nil
	now = &item{
		kind: kind, namespace: obj.GetNamespace(), name: obj.GetName(), uid: obj.GetUID(), refs: obj.GetOwnerReferences(),
		foreground: deleting && slices.Contains(obj.GetFinalizers(), metav1.FinalizerDeleteDependents),
		orphaning:  deleting && slices.Contains(obj.GetFinalizers(), metav1.FinalizerOrphanDependents),
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	before = g.items[now.uid]
	if before == nil && len(now.refs) == 0 && !now.foreground && !now.orphaning {
		return now, nil
	}
	g.unlink(before)
	if len(now.refs) == 0 && !now.foreground && !now.orphaning {
		delete(g.items, now.uid)
		return now, before
	}
	g.items[now.uid] = now
	for _, ref := range now.refs {
		o := g.owners[ref.UID]
		if o == nil {
			o = &owned{dependents: map[types.UID]*item{}}
			g.owners[ref.UID] = o
		}
		o.dependents[now.uid] = now
	}
	return now, before
}

// unlink removes an item from its owners' dependents.
func (g *graph) unlink(it *item) {
	if it == nil {
		return
	}
	for _, ref := range it.refs {
		if o := g.owners[ref.UID]; o != nil {
			if delete(o.dependents, it.uid); len(o.dependents) == 0 {
				delete(g.owners, ref.UID)
			}
		}
	}
}

// remove records the removal of an object, and returns its dependents and its references.
func (g *graph) remove(obj client.Object) (dependents []*item, refs []metav1.OwnerReference) {
	g.mu.Lock()
	defer g.mu.Unlock()
	uid := obj.GetUID()
	if it := g.items[uid]; it != nil {
		refs = it.refs
		g.unlink(it)
		delete(g.items, uid)
	}
	if o := g.owners[uid]; o != nil {
		o.gone = true
		dependents = values(o.dependents)
	}
	return dependents, refs
}

func values(m map[types.UID]*item) []*item {
	out := make([]*item, 0, len(m))
	for _, it := range m {
		out = append(out, it)
	}
	return out
}

func (g *graph) get(uid types.UID) *item {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.items[uid]
}

func (g *graph) dependents(uid types.UID) []*item {
	g.mu.Lock()
	defer g.mu.Unlock()
	if o := g.owners[uid]; o != nil {
		return values(o.dependents)
	}
	return nil
}

// search says whether an owner that is not where it is referred to should be searched for in other namespaces: only once, and only
// if its removal was not seen here.
func (g *graph) search(uid types.UID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	o := g.owners[uid]
	if o == nil || o.gone || o.looked {
		return false
	}
	o.looked = true
	return true
}

// size returns the number of items and owners.
func (g *graph) size() (items, owners int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.items), len(g.owners)
}
