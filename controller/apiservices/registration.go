package apiservices

import (
	"context"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
)

// automanaged is upstream's label of the APIServices that the cluster itself makes: "onstart" for built-in group versions, "true" for those of
// custom resources.
const automanaged = "kube-aggregator.kubernetes.io/automanaged"

// priorities are upstream's (k8s.io/kubernetes/pkg/controlplane and .../apiserver/aggregator.go), by group. Others have that of custom ones.
var priorities = map[string]int32{
	"": 18000, "apps": 17800, "events.k8s.io": 17750, "authentication.k8s.io": 17700, "authorization.k8s.io": 17600, "autoscaling": 17500,
	"batch": 17400, "certificates.k8s.io": 17300, "networking.k8s.io": 17200, "policy": 17100, "rbac.authorization.k8s.io": 17000,
	"storage.k8s.io": 16800, "apiextensions.k8s.io": 16700, "admissionregistration.k8s.io": 16700, "scheduling.k8s.io": 16600,
	"coordination.k8s.io": 16500, "node.k8s.io": 16300, "discovery.k8s.io": 16200, "flowcontrol.apiserver.k8s.io": 16100,
	"resource.k8s.io": 15900, "storagemigration.k8s.io": 15800,
}

// aggregatorGroups are what upstream's aggregator serves itself, for which it makes no APIService.
var aggregatorGroups = map[string]bool{apiregistrationv1.GroupName: true}

// newRegistration returns the controller that makes an APIService for each group version that the masters serve, and removes it with the group
// version. Its keys are the names of APIServices.
func newRegistration(c Config) *controller.Controller {
	r := &registration{Config: c}
	return &controller.Controller{
		Name: "apiservice-registration", Watches: []client.Object{&apiregistrationv1.APIService{}},
		Start: func(v client.View, enqueue func(controller.Key)) {
			client.Each(v, "", func(a *apiregistrationv1.APIService) bool {
				enqueue(controller.KeyOf(a))
				return true
			})
			r.refresh()
			for name := range r.all() {
				enqueue(controller.Key{Name: name})
			}
		},
		Enqueue: func(_ client.View, event client.Event, enqueue func(controller.Key)) {
			enqueue(controller.KeyOf(event.Object()))
		},
		Source: func(ctx context.Context, enqueue func(controller.Key)) error {
			for {
				names, changed := r.refresh()
				for _, name := range names {
					enqueue(controller.Key{Name: name})
				}
				select {
				case <-changed:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
		},
		Reconcile: r.reconcile,
	}
}

type registration struct {
	Config
	mu sync.Mutex
	// served are the group versions that the masters serve, by the names of their APIServices. The map is replaced, never changed.
	served map[string]GroupVersion
}

// refresh reads what the masters serve. It returns the names of the APIServices for which that has changed since the last time, and a channel that
// is closed when it may have changed again.
func (r *registration) refresh() (names []string, changed <-chan struct{}) {
	list, changed := r.Served()
	served := map[string]GroupVersion{}
	for _, gv := range list {
		if !aggregatorGroups[gv.Group] {
			served[gv.Version+"."+gv.Group] = gv
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, gv := range served {
		if r.served[name] != gv {
			names = append(names, name)
		}
	}
	for name := range r.served {
		if _, still := served[name]; !still {
			names = append(names, name)
		}
	}
	r.served = served
	return names, changed
}

func (r *registration) all() map[string]GroupVersion {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.served
}

// wanted returns the APIService of a name, nil if the masters do not serve the group version.
func (r *registration) wanted(name string) *apiregistrationv1.APIService {
	gv, ok := r.all()[name]
	if !ok {
		return nil
	}
	group, version := gv.Group, gv.Version
	a := &apiregistrationv1.APIService{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{automanaged: "onstart"}},
		Spec:       apiregistrationv1.APIServiceSpec{Group: group, Version: version, GroupPriorityMinimum: 1000, VersionPriority: 100},
	}
	if gv.Custom {
		a.Labels[automanaged] = "true"
	} else if priority, ok := priorities[group]; ok {
		a.Spec.GroupPriorityMinimum, a.Spec.VersionPriority = priority, versionPriority(version)
	}
	return a
}

// versionPriority returns upstream's priority of a built-in version: newer and stabler ones are higher.
func versionPriority(version string) int32 {
	switch {
	case version == "v2":
		return 30
	case strings.Contains(version, "beta"):
		return 9
	case strings.Contains(version, "alpha"):
		return 1
	}
	return 15
}

func (r *registration) reconcile(ctx context.Context, v client.View, key controller.Key) (controller.Result, error) {
	wanted := r.wanted(key.Name)
	a, ok := client.Get[*apiregistrationv1.APIService](v, "", key.Name)
	var err error
	switch {
	case !ok && wanted != nil:
		_, err = client.Create(ctx, r.Client, wanted)
		if apierrors.IsAlreadyExists(err) {
			err = nil // its creation enqueues it
		}
	case ok && wanted == nil && a.Labels[automanaged] != "" && a.Spec.Service == nil && a.DeletionTimestamp == nil:
		err = r.Client.Delete(ctx, a, client.IfUID(a.UID))
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			err = nil // it is another one now, and was enqueued
		}
	}
	return controller.Result{}, err
}
