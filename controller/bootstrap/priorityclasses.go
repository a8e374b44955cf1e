package bootstrap

import (
	"context"

	schedulingv1 "k8s.io/api/scheduling/v1"
	schedulinghelpers "k8s.io/kubernetes/pkg/apis/scheduling/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
)

// NewPriorityClasses returns the controller of the priority classes that every cluster has, system-cluster-critical and
// system-node-critical. Like upstream it creates them where they are missing, and leaves descriptions and labels alone; nobody can
// change their values.
func NewPriorityClasses(c *client.Client) *controller.Controller {
	classes := map[string]*schedulingv1.PriorityClass{}
	for _, class := range schedulinghelpers.SystemPriorityClasses() {
		classes[class.Name] = class
	}
	return &controller.Controller{
		Name:    "priorityclasses",
		Watches: []client.Object{&schedulingv1.PriorityClass{}},
		Start: func(_ client.View, enqueue func(controller.Key)) {
			for name := range classes {
				enqueue(controller.Key{Name: name})
			}
		},
		Enqueue: func(_ client.View, event client.Event, enqueue func(controller.Key)) {
			if name := event.Object().GetName(); event.New == nil && classes[name] != nil {
				enqueue(controller.Key{Name: name})
			}
		},
		Reconcile: func(ctx context.Context, v client.View, key controller.Key) (controller.Result, error) {
			if _, ok := client.Get[*schedulingv1.PriorityClass](v, "", key.Name); ok {
				return controller.Result{}, nil
			}
			_, err := client.Create(ctx, c, classes[key.Name].DeepCopy())
			return controller.Result{}, ignoreExists(err)
		},
	}
}
