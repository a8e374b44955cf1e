// Package undelete lists deleted objects that the cluster keeps for an hour, and creates them again.
package undelete

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"sigs.k8s.io/yaml"
)

// path is that of the API's deleted objects.
const path = "/kontiki/v1/deleted"

// Options are those of one `kontiki undelete`.
type Options struct {
	Config *rest.Config
	// Namespace is where objects are looked for, in all namespaces if AllNamespaces is set.
	Namespace     string
	AllNamespaces bool
	// Names are TYPE/NAME, or UIDs as the list has them. None means that the deleted objects are listed.
	Names []string
	// All brings back everything of the namespace, the namespace itself included. Since limits it to what was deleted within this time.
	All   bool
	Since time.Duration
	// DryRun asks the API what it would do. YAML prints the manifests and changes nothing.
	DryRun, YAML bool
	// Forget drops the objects' copies instead of bringing them back.
	Forget   bool
	Out, Err io.Writer
	Now      func() time.Time
}

// ErrFailed means that an object was not brought back, and that Err says why.
var ErrFailed = errors.New("not everything was brought back")

// item is a deleted object, as the API lists it.
type item struct {
	UID        string      `json:"uid"`
	APIVersion string      `json:"apiVersion"`
	Kind       string      `json:"kind"`
	Group      string      `json:"group"`
	Resource   string      `json:"resource"`
	ShortNames []string    `json:"shortNames"`
	Namespaced bool        `json:"namespaced"`
	Namespace  string      `json:"namespace"`
	Name       string      `json:"name"`
	Deleted    metav1.Time `json:"deleted"`
	User       string      `json:"user"`
}

// String returns the object's name in kubectl's form.
func (i *item) String() string {
	kind := i.Kind
	if i.Group != "" {
		kind += "." + i.Group
	}
	return strings.ToLower(kind) + "/" + i.Name
}

// is says whether a type, as people write it, is the object's: web, deploy/web, deployments.apps/web.
func (i *item) is(name string) bool {
	kind, group, _ := strings.Cut(strings.ToLower(name), ".")
	return (group == "" || group == i.Group) && (kind == i.Resource || kind == strings.ToLower(i.Kind) || slices.Contains(i.ShortNames, kind))
}

// run is the state of one `kontiki undelete`.
type run struct {
	Options
	http      *http.Client
	dynamic   dynamic.Interface
	discovery *discovery.DiscoveryClient
	mapper    meta.RESTMapper
	items     []*item // the latest first
	// newNamespaces are those that a dry run would have created.
	newNamespaces map[string]bool
}

// Run lists, or brings back. It returns ErrFailed if Err has the reasons.
func Run(ctx context.Context, o Options) error {
	r := &run{Options: o, newNamespaces: map[string]bool{}}
	if err := r.check(); err != nil {
		return err
	}
	if err := r.connect(); err != nil {
		return err
	}
	if err := r.read(ctx); err != nil {
		return err
	}
	if len(o.Names) == 0 && !o.All {
		return r.list()
	}
	chosen, err := r.choose()
	if err != nil {
		return err
	}
	return r.restore(ctx, chosen)
}

func (r *run) check() error {
	switch {
	case r.All && len(r.Names) > 0:
		return errors.New("give either names or --all")
	case r.All && r.AllNamespaces:
		return errors.New("--all brings back the objects of one namespace: name it with -n")
	case r.Since < 0:
		return errors.New("--since must not be negative")
	case (r.DryRun || r.YAML || r.Forget) && len(r.Names) == 0 && !r.All:
		return errors.New("--dry-run, --forget and -o are for some of the objects: name them, or give --all")
	case r.Forget && (r.DryRun || r.YAML):
		return errors.New("give either --forget or --dry-run or -o")
	}
	for _, name := range r.Names {
		if kind, rest, ok := strings.Cut(name, "/"); ok && (kind == "" || rest == "" || strings.Contains(rest, "/")) {
			return fmt.Errorf("%q is not TYPE/NAME", name)
		}
	}
	return nil
}

func (r *run) connect() (err error) {
	if r.http, err = rest.HTTPClientFor(r.Config); err != nil {
		return err
	}
	if r.dynamic, err = dynamic.NewForConfigAndClient(r.Config, r.http); err != nil {
		return err
	}
	if r.discovery, err = discovery.NewDiscoveryClientForConfigAndClient(r.Config, r.http); err != nil {
		return err
	}
	r.mapper = restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(r.discovery))
	return nil
}

// get reads a document below the path.
func (r *run) get(ctx context.Context, below string, query url.Values, into any) error {
	request := r.discovery.RESTClient().Get().AbsPath(path + below)
	for key, values := range query {
		for _, value := range values {
			request.Param(key, value)
		}
	}
	data, err := request.DoRaw(ctx)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, into)
}

// page is how many objects one request lists.
var page = 10000

// read reads the list, in parts: what is asked for may have been deleted before many others.
func (r *run) read(ctx context.Context) error {
	query := url.Values{"limit": {strconv.Itoa(page)}}
	for {
		var list struct {
			Items    []*item `json:"items"`
			Continue string  `json:"continue"`
		}
		if err := r.get(ctx, "", query, &list); err != nil {
			return err
		}
		for _, i := range list.Items {
			if r.Since == 0 || r.Now().Sub(i.Deleted.Time) <= r.Since {
				r.items = append(r.items, i)
			}
		}
		if list.Continue == "" {
			return nil
		}
		query.Set("continue", list.Continue)
	}
}

// here says whether an object is one of the namespace, or the namespace itself.
func (r *run) here(i *item) bool {
	return i.Namespaced && i.Namespace == r.Namespace || i.Resource == "namespaces" && i.Group == "" && i.Name == r.Namespace
}

func (r *run) list() error {
	w := tabwriter.NewWriter(r.Out, 0, 8, 3, ' ', 0)
	n := 0
	for _, i := range r.items {
		if !r.AllNamespaces && i.Namespaced && !r.here(i) {
			continue
		}
		if n++; n == 1 {
			fmt.Fprintln(w, "NAMESPACE\tNAME\tDELETED\tBY\tUID")
		}
		fmt.Fprintf(w, "%s\t%s\t%s ago\t%s\t%s\n", i.Namespace, i, duration.HumanDuration(r.Now().Sub(i.Deleted.Time)), cmp.Or(i.User, "<unknown>"), i.UID)
	}
	if n == 0 {
		where := fmt.Sprintf(" in namespace %q, nor outside of namespaces", r.Namespace)
		if r.AllNamespaces {
			where = ""
		}
		fmt.Fprintf(r.Err, "No deleted objects are kept%s.\n", where)
	}
	return w.Flush()
}

// choose returns the objects to bring back: of each name the one that was deleted last.
func (r *run) choose() ([]*item, error) {
	var chosen []*item
	if r.All {
		type name struct{ group, resource, name string }
		seen := map[name]bool{}
		for _, i := range r.items {
			key := name{i.Group, i.Resource, i.Name}
			if r.here(i) && !seen[key] {
				seen[key] = true
				chosen = append(chosen, i)
			}
		}
		if len(chosen) == 0 {
			return nil, fmt.Errorf("no deleted objects of namespace %q are kept", r.Namespace)
		}
	}
	for _, name := range r.Names {
		found, err := r.find(name)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(chosen, found) {
			chosen = append(chosen, found)
		}
	}
	slices.SortStableFunc(chosen, func(a, b *item) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), strings.Compare(a.Resource, b.Resource), strings.Compare(a.Name, b.Name))
	})
	return chosen, nil
}

func (r *run) find(name string) (*item, error) {
	kind, object, typed := strings.Cut(name, "/")
	var elsewhere []string
	for _, i := range r.items {
		switch {
		case !typed && i.UID == name:
			return i, nil
		case !typed || !i.is(kind) || i.Name != object:
		case !i.Namespaced || i.Namespace == r.Namespace:
			return i, nil
		case !slices.Contains(elsewhere, i.Namespace):
			elsewhere = append(elsewhere, i.Namespace)
		}
	}
	switch {
	case len(elsewhere) > 0:
		return nil, fmt.Errorf("no deleted %s is kept in namespace %q, but in: %s", name, r.Namespace, strings.Join(elsewhere, ", "))
	case !typed:
		return nil, fmt.Errorf("no deleted object with the UID %q is kept; give TYPE/NAME or a UID", name)
	}
	return nil, fmt.Errorf("no deleted %s is kept in namespace %q", name, r.Namespace)
}

// first are resources that others need, in the order in which they are created. All others that have no namespace come next, then
// those that have one.
var first = []string{"namespaces", "customresourcedefinitions", "priorityclasses", "storageclasses", "persistentvolumes"}

// early are resources of a namespace that others need.
var early = []string{"resourcequotas", "limitranges", "serviceaccounts", "secrets", "configmaps", "persistentvolumeclaims", "roles", "rolebindings", "services"}

func rank(i *item) int {
	if at := slices.Index(first, i.Resource); at >= 0 {
		return at
	}
	if !i.Namespaced {
		return len(first)
	}
	if at := slices.Index(early, i.Resource); at >= 0 {
		return len(first) + 1 + at
	}
	return len(first) + 1 + len(early)
}

// restore brings objects back, or drops their copies, one after the other, and goes on after one that fails.
func (r *run) restore(ctx context.Context, chosen []*item) error {
	failed := false
	report := func(i *item, err error) {
		if err != nil {
			failed = true
			fmt.Fprintf(r.Err, "error: %s: %v\n", i, err)
		}
	}
	var found []*restored
	for _, i := range chosen {
		if r.Forget {
			err := r.discovery.RESTClient().Delete().AbsPath(path, i.UID).Do(ctx).Error()
			if err == nil {
				fmt.Fprintf(r.Out, "%s forgotten\n", i)
			}
			report(i, err)
			continue
		}
		old := &restored{item: i}
		err := r.get(ctx, "/"+i.UID, nil, &old.object.Object)
		if err == nil {
			found = append(found, old)
		}
		report(i, err)
	}
	for at, old := range ownersFirst(found) {
		switch {
		case r.YAML:
			report(old.item, r.print(&old.object, at > 0))
		default:
			report(old.item, r.create(ctx, old.item, &old.object))
		}
	}
	if failed {
		return ErrFailed
	}
	return nil
}

// restored is an object that is to be brought back, as it was stored last.
type restored struct {
	*item
	object unstructured.Unstructured
}

// ownersFirst returns the objects in an order in which each comes after its owners, and otherwise in the given one.
func ownersFirst(given []*restored) []*restored {
	byUID := map[types.UID]*restored{}
	for _, o := range given {
		byUID[o.object.GetUID()] = o
	}
	done := map[*restored]bool{}
	var order []*restored
	var add func(o *restored)
	add = func(o *restored) {
		if o == nil || done[o] {
			return
		}
		done[o] = true // before its owners: there may be circles
		for _, ref := range o.object.GetOwnerReferences() {
			add(byUID[ref.UID])
		}
		order = append(order, o)
	}
	for _, o := range given {
		add(o)
	}
	return order
}

func (r *run) print(old *unstructured.Unstructured, separate bool) error {
	text, err := yaml.Marshal(clean(old).Object)
	if err != nil {
		return err
	}
	if separate {
		fmt.Fprintln(r.Out, "---")
	}
	_, err = r.Out.Write(text)
	return err
}
