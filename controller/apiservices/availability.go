package apiservices

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/helper"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
)

// again is how often an extension API server is asked without an event, as upstream does.
const again = 30 * time.Second

const (
	// checks is how many extension API servers are asked at a time; each may take some seconds.
	checks     = 16
	maxMessage = 1024
)

// byService finds the APIServices that name a service.
var byService = client.NewIndex(func(a *apiregistrationv1.APIService, add func(string)) {
	if s := a.Spec.Service; s != nil {
		add(s.Namespace + "/" + s.Name)
	}
})

// slicesOf finds the slices of a service.
var slicesOf = client.NewIndex(func(s *discoveryv1.EndpointSlice, add func(string)) {
	add(s.Namespace + "/" + s.Labels[discoveryv1.LabelServiceName])
})

// newAvailability returns the controller that sets the condition Available of APIServices that name a service
// (k8s.io/kube-aggregator/pkg/controllers/status/remote). Its keys are APIServices.
func newAvailability(c Config) *controller.Controller {
	r := &availability{c}
	return &controller.Controller{
		Name:    "apiservice-availability",
		Watches: []client.Object{&apiregistrationv1.APIService{}, &corev1.Service{}, &discoveryv1.EndpointSlice{}},
		Start: func(v client.View, enqueue func(controller.Key)) {
			client.Each(v, "", func(a *apiregistrationv1.APIService) bool {
				enqueue(controller.KeyOf(a))
				return true
			})
		},
		Enqueue: func(v client.View, event client.Event, enqueue func(controller.Key)) {
			name := ""
			switch obj := event.Object().(type) {
			case *apiregistrationv1.APIService:
				// Its status alone is this controller's. A message that differs each time must not have it check without a pause.
				if old, ok := event.Old.(*apiregistrationv1.APIService); !ok || event.New == nil || old.UID != obj.UID || !equality.Semantic.DeepEqual(old.Spec, obj.Spec) {
					enqueue(controller.KeyOf(obj))
				}
				return
			case *corev1.Service:
				name = obj.Namespace + "/" + obj.Name
			case *discoveryv1.EndpointSlice:
				name = obj.Namespace + "/" + obj.Labels[discoveryv1.LabelServiceName]
			}
			for _, a := range byService.Any(v, name) {
				enqueue(controller.KeyOf(a))
			}
		},
		Reconcile: r.reconcile, Workers: checks,
	}
}

type availability struct{ Config }

func (r *availability) reconcile(ctx context.Context, v client.View, key controller.Key) (controller.Result, error) {
	a, ok := client.Get[*apiregistrationv1.APIService](v, "", key.Name)
	if !ok || a.DeletionTimestamp != nil {
		return controller.Result{}, nil
	}
	condition := apiregistrationv1.APIServiceCondition{Type: apiregistrationv1.Available, Status: apiregistrationv1.ConditionFalse, LastTransitionTime: metav1.Now()}
	wait := again
	if a.Spec.Service == nil {
		condition, wait = helper.NewLocalAvailableAPIServiceCondition(), 0
	} else if condition.Reason, condition.Message = r.problem(ctx, v, a); condition.Reason == "" {
		condition.Status, condition.Reason, condition.Message = apiregistrationv1.ConditionTrue, "Passed", "all checks passed"
	}
	now := helper.GetAPIServiceConditionByType(a, apiregistrationv1.Available)
	if now != nil && now.Status == condition.Status && now.Reason == condition.Reason && now.Message == condition.Message {
		return controller.Result{After: wait}, nil
	}
	changed := a.DeepCopy()
	helper.SetAPIServiceCondition(changed, condition)
	_, err := client.UpdateStatus(ctx, r.Client, changed)
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		err = nil // its change enqueues it
	}
	return controller.Result{After: wait}, err
}

// problem returns why an extension API server is not available, with upstream's reasons and messages; "" if it is.
func (r *availability) problem(ctx context.Context, v client.View, a *apiregistrationv1.APIService) (reason, message string) {
	at := a.Spec.Service
	service, ok := client.Get[*corev1.Service](v, at.Namespace, at.Name)
	if !ok {
		return "ServiceNotFound", fmt.Sprintf("service/%s in %q is not present", at.Name, at.Namespace)
	}
	port := int32(443)
	if at.Port != nil {
		port = *at.Port
	}
	i := slices.IndexFunc(service.Spec.Ports, func(p corev1.ServicePort) bool { return p.Port == port })
	if i < 0 {
		return "ServicePortError", fmt.Sprintf("service/%s in %q is not listening on port %d", at.Name, at.Namespace, port)
	}
	found := slicesOf.Any(v, at.Namespace+"/"+at.Name)
	if len(found) == 0 {
		return "EndpointsNotFound", fmt.Sprintf("cannot find endpointslices for service/%s in %q", at.Name, at.Namespace)
	}
	if name := service.Spec.Ports[i].Name; !slices.ContainsFunc(found, func(s *discoveryv1.EndpointSlice) bool { return hasAddress(s, name) }) {
		return "MissingEndpoints", fmt.Sprintf("endpointslices for service/%s in %q have no addresses with port name %q", at.Name, at.Namespace, name)
	}
	if err := r.Check(ctx, a); err != nil {
		return "FailedDiscoveryCheck", cut(err.Error())
	}
	return "", ""
}

// cut bounds a message that may contain what a server has sent.
func cut(message string) string {
	return strings.ToValidUTF8(message[:min(len(message), maxMessage)], "?")
}

func hasAddress(s *discoveryv1.EndpointSlice, port string) bool {
	return slices.ContainsFunc(s.Endpoints, func(e discoveryv1.Endpoint) bool { return e.Conditions.Ready == nil || *e.Conditions.Ready }) &&
		slices.ContainsFunc(s.Ports, func(p discoveryv1.EndpointPort) bool { return p.Name != nil && *p.Name == port && p.Port != nil })
}
