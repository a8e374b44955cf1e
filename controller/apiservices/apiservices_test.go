package apiservices

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/helper"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/test/harness"
)

// value is something that changes.
type value[T any] struct {
	mu      sync.Mutex
	now     T
	changed chan struct{}
}

func newValue[T any](now T) *value[T] { return &value[T]{now: now, changed: make(chan struct{})} }

func (v *value[T]) get() (T, <-chan struct{}) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.now, v.changed
}

func (v *value[T]) set(now T) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.now = now
	close(v.changed)
	v.changed = make(chan struct{})
}

type fixture struct {
	*harness.Harness
	served *value[[]GroupVersion]
	auth   *value[map[string]string]
	check  atomic.Pointer[error]
	checks atomic.Int32
}

func run(t *testing.T, served ...GroupVersion) *fixture {
	t.Helper()
	f := &fixture{Harness: harness.New(t), served: newValue(served), auth: newValue(map[string]string{"client-ca-file": "a"})}
	controllertest.Run(t, f.Client, New(Config{Client: f.Client, Served: f.served.get, Authentication: f.auth.get,
		Check: func(context.Context, *apiregistrationv1.APIService) error {
			f.checks.Add(1)
			if err := f.check.Load(); err != nil {
				return *err
			}
			return nil
		}})...)
	return f
}

func (f *fixture) fail(err error) { f.check.Store(&err) }

const name = "v1.g.example.com"

func apiService() *apiregistrationv1.APIService {
	return &apiregistrationv1.APIService{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: apiregistrationv1.APIServiceSpec{
		Group: "g.example.com", Version: "v1", GroupPriorityMinimum: 1000, VersionPriority: 10, InsecureSkipTLSVerify: true,
		Service: &apiregistrationv1.ServiceReference{Namespace: "default", Name: "ext"}}}
}

func endpoints(ready bool, port string) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Name: "ext", Namespace: "default", Labels: map[string]string{discoveryv1.LabelServiceName: "ext"}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: &port, Port: new(int32(8443))}},
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.244.0.7"}, NodeName: new("n"), Conditions: discoveryv1.EndpointConditions{Ready: &ready}}}}
}

func service(port int32) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "ext", Namespace: "default"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "https", Port: port}}}}
}

// available waits for a condition.
func available(t *testing.T, f *fixture, name string, status apiregistrationv1.ConditionStatus, reason, message string) {
	t.Helper()
	controllertest.Await(t, f.Client, "", name, string(status)+" "+reason+": "+message, func(a *apiregistrationv1.APIService) bool {
		c := helper.GetAPIServiceConditionByType(a, apiregistrationv1.Available)
		return c != nil && c.Status == status && c.Reason == reason && c.Message == message && !c.LastTransitionTime.IsZero()
	})
}

// TestAvailability: upstream's reasons and messages, in the order in which a service comes into being.
func TestAvailability(t *testing.T) {
	f := run(t)
	f.fail(errors.New("no answer"))
	controllertest.Create(t, f.Client, apiService())
	available(t, f, name, "False", "ServiceNotFound", `service/ext in "default" is not present`)
	controllertest.Create(t, f.Client, service(8443))
	available(t, f, name, "False", "ServicePortError", `service/ext in "default" is not listening on port 443`)
	controllertest.Change(t, f.Client, "default", "ext", func(s *corev1.Service) { s.Spec.Ports[0].Port = 443 })
	available(t, f, name, "False", "EndpointsNotFound", `cannot find endpointslices for service/ext in "default"`)
	missing := `endpointslices for service/ext in "default" have no addresses with port name "https"`
	controllertest.Create(t, f.Client, endpoints(false, "https"))
	available(t, f, name, "False", "MissingEndpoints", missing)
	controllertest.Change(t, f.Client, "default", "ext", func(s *discoveryv1.EndpointSlice) {
		*s.Endpoints[0].Conditions.Ready, s.Ports[0].Name = true, new("other")
	})
	available(t, f, name, "False", "MissingEndpoints", missing)
	if n := f.checks.Load(); n != 0 {
		t.Errorf("%d checks without an address", n)
	}
	controllertest.Change(t, f.Client, "default", "ext", func(s *discoveryv1.EndpointSlice) { s.Ports[0].Name = new("https") })
	available(t, f, name, "False", "FailedDiscoveryCheck", "no answer")
	f.fail(nil)
	controllertest.Change(t, f.Client, "", name, func(a *apiregistrationv1.APIService) { a.Spec.VersionPriority++ })
	available(t, f, name, "True", "Passed", "all checks passed")
	f.fail(errors.New(strings.Repeat("é", maxMessage)))
	controllertest.Change(t, f.Client, "", name, func(a *apiregistrationv1.APIService) { a.Spec.VersionPriority++ })
	available(t, f, name, "False", "FailedDiscoveryCheck", strings.Repeat("é", maxMessage/2))
	controllertest.Change(t, f.Client, "", name, func(a *apiregistrationv1.APIService) { a.Spec.Service, a.Spec.InsecureSkipTLSVerify = nil, false })
	available(t, f, name, "True", "Local", "Local APIServices are always available")
}

// TestChangingMessages: an error that differs each time does not have the controller follow its own changes.
func TestChangingMessages(t *testing.T) {
	f := run(t)
	r := &availability{Config{Client: f.Client, Check: func(context.Context, *apiregistrationv1.APIService) error {
		return fmt.Errorf("from port %d", f.checks.Add(1))
	}}}
	ctl := newAvailability(r.Config)
	enqueued := 0
	look := func(event client.Event) { ctl.Enqueue(f.Client.View(), event, func(_ controller.Key) { enqueued++ }) }
	old := apiService()
	old.UID = "1"
	changed := old.DeepCopy()
	helper.SetAPIServiceCondition(changed, apiregistrationv1.APIServiceCondition{Type: apiregistrationv1.Available, Status: "False", Message: "other"})
	if look(client.Event{Old: old, New: changed}); enqueued != 0 {
		t.Error("a change of the status alone is followed")
	}
	again := old.DeepCopy()
	again.UID = "2"
	spec := old.DeepCopy()
	spec.Spec.Service.Name = "other"
	for i, event := range []client.Event{{New: old}, {Old: old, New: spec}, {Old: old, New: again}, {Old: old}} {
		if look(event); enqueued != i+1 {
			t.Errorf("event %d is not followed", i)
		}
	}
}

// TestRegistration: there is an APIService for each group version that the masters serve, as long as they do. What users have made of it stays.
func TestRegistration(t *testing.T) {
	core, apps, metrics := GroupVersion{Version: "v1"}, GroupVersion{Group: "apps", Version: "v1"}, GroupVersion{Group: "metrics.k8s.io", Version: "v1beta1"}
	custom := GroupVersion{Group: "g.example.com", Version: "v1", Custom: true}
	f := run(t, core, apps, metrics, GroupVersion{Group: apiregistrationv1.GroupName, Version: "v1"})
	is := func(name, label string, group, version int32) {
		t.Helper()
		controllertest.Await(t, f.Client, "", name, "made as upstream does", func(a *apiregistrationv1.APIService) bool {
			return a.Labels[automanaged] == label && a.Spec.GroupPriorityMinimum == group && a.Spec.VersionPriority == version && a.Spec.Service == nil
		})
	}
	is("v1.", "onstart", 18000, 15)
	is("v1.apps", "onstart", 17800, 15)
	is("v1beta1.metrics.k8s.io", "onstart", 1000, 100)
	available(t, f, "v1.apps", "True", "Local", "Local APIServices are always available")
	f.served.set([]GroupVersion{core, apps, metrics, custom})
	is(name, "true", 1000, 100)
	// One that is removed is made again.
	if err := f.Client.Delete(t.Context(), &apiregistrationv1.APIService{ObjectMeta: metav1.ObjectMeta{Name: "v1.apps"}}); err != nil {
		t.Fatal(err)
	}
	is("v1.apps", "onstart", 17800, 15)
	// A user has a service serve this one, and labels another.
	controllertest.Change(t, f.Client, "", "v1beta1.metrics.k8s.io", func(a *apiregistrationv1.APIService) {
		a.Spec.Service, a.Spec.InsecureSkipTLSVerify = &apiregistrationv1.ServiceReference{Namespace: "kube-system", Name: "metrics-server"}, true
	})
	unmanaged := apiService()
	unmanaged.Name, unmanaged.Spec.Version, unmanaged.Spec.Service, unmanaged.Spec.InsecureSkipTLSVerify = "v2.g.example.com", "v2", nil, false
	controllertest.Create(t, f.Client, unmanaged)
	f.served.set([]GroupVersion{core, apps})
	controllertest.AwaitGone[*apiregistrationv1.APIService](t, f.Client, "", name)
	available(t, f, "v1beta1.metrics.k8s.io", "False", "ServiceNotFound", `service/metrics-server in "kube-system" is not present`)
	if _, ok := client.Get[*apiregistrationv1.APIService](f.Client.View(), "", unmanaged.Name); !ok {
		t.Error("an APIService of a user was removed")
	}
	if _, ok := client.Get[*apiregistrationv1.APIService](f.Client.View(), "", "v1."+apiregistrationv1.GroupName); ok {
		t.Error("there is an APIService for the aggregator's own group")
	}
}

// TestAuthentication: the ConfigMap has what extension API servers need, always. Other keys stay.
func TestAuthentication(t *testing.T) {
	f := run(t)
	is := func(want map[string]string) {
		t.Helper()
		controllertest.Await(t, f.Client, the.Namespace, the.Name, fmt.Sprint(want), func(c *corev1.ConfigMap) bool { return maps.Equal(c.Data, want) })
	}
	is(map[string]string{"client-ca-file": "a"})
	controllertest.Change(t, f.Client, the.Namespace, the.Name, func(c *corev1.ConfigMap) {
		c.Data = map[string]string{"client-ca-file": "mallory's", "foreign": "x"}
	})
	is(map[string]string{"client-ca-file": "a", "foreign": "x"})
	f.auth.set(map[string]string{"client-ca-file": "b", "requestheader-client-ca-file": "c"})
	all := map[string]string{"client-ca-file": "b", "requestheader-client-ca-file": "c", "foreign": "x"}
	is(all)
	if err := f.Client.Delete(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: the.Namespace, Name: the.Name}}); err != nil {
		t.Fatal(err)
	}
	delete(all, "foreign")
	is(all)
}
