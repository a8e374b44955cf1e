// Package flowcontrol maintains the objects that configure priority and fairness, by upstream's rules: mandatory objects are always
// as they must be, suggested ones are created if they are missing and updated unless their annotation apf.kubernetes.io/autoupdate-spec
// says false, and those that are no longer suggested are removed if it says true. It also sets the condition Dangling of FlowSchemas.
package flowcontrol

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	"k8s.io/kubernetes/pkg/registry/flowcontrol/ensurer"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
)

// Upstream's field managers, for the objects themselves and for their status.
const (
	Producer = "api-priority-and-fairness-config-producer-v1"
	Consumer = "api-priority-and-fairness-config-consumer-v1"
)

// New returns the controller. producer acts as the field manager Producer, consumer as Consumer. There is one key: all objects are
// few, and compared in microseconds.
func New(producer, consumer *client.Client) *controller.Controller {
	all := controller.Key{Name: "all"}
	return &controller.Controller{
		Name:    "flowcontrol",
		Workers: 1,
		Watches: []client.Object{&flowcontrolv1.FlowSchema{}, &flowcontrolv1.PriorityLevelConfiguration{}},
		Start:   func(_ client.View, enqueue func(controller.Key)) { enqueue(all) },
		Enqueue: func(_ client.View, _ client.Event, enqueue func(controller.Key)) { enqueue(all) },
		Reconcile: func(ctx context.Context, _ client.View, _ controller.Key) (controller.Result, error) {
			return controller.Result{}, errors.Join(ensure(ctx, producer), setConditions(ctx, consumer))
		},
	}
}

// ensure creates, updates and removes objects. A schema's level is created before it.
func ensure(ctx context.Context, c *client.Client) error {
	levels := &objects[*flowcontrolv1.PriorityLevelConfiguration]{
		ObjectOps: ensurer.NewPriorityLevelConfigurationOps(nil, nil), client: c, make: func(name string) *flowcontrolv1.PriorityLevelConfiguration {
			return &flowcontrolv1.PriorityLevelConfiguration{ObjectMeta: metav1.ObjectMeta{Name: name}}
		},
	}
	schemas := &objects[*flowcontrolv1.FlowSchema]{
		ObjectOps: ensurer.NewFlowSchemaOps(nil, nil), client: c, make: func(name string) *flowcontrolv1.FlowSchema {
			return &flowcontrolv1.FlowSchema{ObjectMeta: metav1.ObjectMeta{Name: name}}
		},
	}
	for _, step := range []func() error{
		func() error {
			return ensurer.EnsureConfigurations(ctx, levels, bootstrap.SuggestedPriorityLevelConfigurations, ensurer.NewSuggestedEnsureStrategy[*flowcontrolv1.PriorityLevelConfiguration]())
		},
		func() error {
			return ensurer.EnsureConfigurations(ctx, levels, bootstrap.MandatoryPriorityLevelConfigurations, ensurer.NewMandatoryEnsureStrategy[*flowcontrolv1.PriorityLevelConfiguration]())
		},
		func() error {
			return ensurer.EnsureConfigurations(ctx, schemas, bootstrap.SuggestedFlowSchemas, ensurer.NewSuggestedEnsureStrategy[*flowcontrolv1.FlowSchema]())
		},
		func() error {
			return ensurer.EnsureConfigurations(ctx, schemas, bootstrap.MandatoryFlowSchemas, ensurer.NewMandatoryEnsureStrategy[*flowcontrolv1.FlowSchema]())
		},
		func() error {
			return ensurer.RemoveUnwantedObjects(ctx, schemas, slices.Concat(bootstrap.MandatoryFlowSchemas, bootstrap.SuggestedFlowSchemas))
		},
		func() error {
			return ensurer.RemoveUnwantedObjects(ctx, levels, slices.Concat(bootstrap.MandatoryPriorityLevelConfigurations, bootstrap.SuggestedPriorityLevelConfigurations))
		},
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// object is one of the two kinds.
type object interface {
	*flowcontrolv1.FlowSchema | *flowcontrolv1.PriorityLevelConfiguration
	client.Object
}

// objects are the operations of upstream's ensurer, by a client. What the embedded operations need a server for is replaced.
type objects[T object] struct {
	ensurer.ObjectOps[T]
	client *client.Client
	make   func(name string) T
}

func (o *objects[T]) Create(ctx context.Context, obj T, _ metav1.CreateOptions) (T, error) {
	return client.Create(ctx, o.client, obj)
}

func (o *objects[T]) Update(ctx context.Context, obj T, _ metav1.UpdateOptions) (T, error) {
	return client.Update(ctx, o.client, obj)
}

func (o *objects[T]) Delete(ctx context.Context, name string, _ metav1.DeleteOptions) error {
	return o.client.Delete(ctx, o.make(name))
}

func (o *objects[T]) List(labels.Selector) ([]T, error) {
	return client.List[T](o.client.View(), "", nil), nil
}

func (o *objects[T]) Get(name string) (T, error) {
	obj, ok := client.Get[T](o.client.View(), "", name)
	if !ok {
		return obj, apierrors.NewNotFound(o.client.KindOf(o.make(name)).GroupResource(), name)
	}
	return obj, nil
}

// setConditions makes the condition Dangling of every schema say whether its level exists.
func setConditions(ctx context.Context, c *client.Client) error {
	v := c.View()
	var errs []error
	client.Each(v, "", func(schema *flowcontrolv1.FlowSchema) bool {
		want := dangling(v, schema)
		i := slices.IndexFunc(schema.Status.Conditions, func(c flowcontrolv1.FlowSchemaCondition) bool { return c.Type == want.Type })
		if i >= 0 {
			have := schema.Status.Conditions[i]
			if have.Status == want.Status && have.Reason == want.Reason && have.Message == want.Message {
				return true
			}
		}
		changed := schema.DeepCopy()
		want.LastTransitionTime = metav1.NewTime(time.Now())
		if i < 0 {
			changed.Status.Conditions = append(changed.Status.Conditions, want)
		} else {
			changed.Status.Conditions[i] = want
		}
		if _, err := client.UpdateStatus(ctx, c, changed); err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("set the condition of FlowSchema %s: %w", schema.Name, err))
		}
		return true
	})
	return errors.Join(errs...)
}

func dangling(v client.View, schema *flowcontrolv1.FlowSchema) flowcontrolv1.FlowSchemaCondition {
	name := schema.Spec.PriorityLevelConfiguration.Name
	if _, ok := client.Get[*flowcontrolv1.PriorityLevelConfiguration](v, "", name); ok {
		return flowcontrolv1.FlowSchemaCondition{
			Type: flowcontrolv1.FlowSchemaConditionDangling, Status: flowcontrolv1.ConditionFalse, Reason: "Found",
			Message: fmt.Sprintf("This FlowSchema references the PriorityLevelConfiguration object named %q and it exists", name),
		}
	}
	return flowcontrolv1.FlowSchemaCondition{
		Type: flowcontrolv1.FlowSchemaConditionDangling, Status: flowcontrolv1.ConditionTrue, Reason: "NotFound",
		Message: fmt.Sprintf("This FlowSchema references the PriorityLevelConfiguration object named %q but there is no such object", name),
	}
}
