package builtin

import (
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/validation"

	"github.com/kontiki/kontiki/api/registry"
)

// events returns the row of core/v1 events, the form in which all events are stored.
func events() *registry.Resource {
	return eventsIn(&registry.Resource{
		KeepDeleted: never,
		Fields: func(obj registry.Object) fields.Set {
			e := obj.(*corev1.Event)
			source := e.Source.Component
			if source == "" {
				source = e.ReportingController
			}
			return fields.Set{
				"involvedObject.kind":            e.InvolvedObject.Kind,
				"involvedObject.namespace":       e.InvolvedObject.Namespace,
				"involvedObject.name":            e.InvolvedObject.Name,
				"involvedObject.uid":             string(e.InvolvedObject.UID),
				"involvedObject.apiVersion":      e.InvolvedObject.APIVersion,
				"involvedObject.resourceVersion": e.InvolvedObject.ResourceVersion,
				"involvedObject.fieldPath":       e.InvolvedObject.FieldPath,
				"reason":                         e.Reason,
				"reportingComponent":             e.ReportingController,
				"source":                         source,
				"type":                           e.Type,
			}
		},
		FieldNames: []string{"involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid",
			"involvedObject.apiVersion", "involvedObject.resourceVersion", "involvedObject.fieldPath", "reason",
			"reportingComponent", "source", "type"},
	})
}

// newEvents returns the row of the same events in the form of events.k8s.io/v1.
func newEvents(stored *registry.Resource) *registry.Resource {
	return eventsIn(&registry.Resource{
		Group: "events.k8s.io", StoredAs: stored,
		Fields: func(obj registry.Object) fields.Set {
			e := obj.(*eventsv1.Event)
			return fields.Set{
				"regarding.kind":            e.Regarding.Kind,
				"regarding.namespace":       e.Regarding.Namespace,
				"regarding.name":            e.Regarding.Name,
				"regarding.uid":             string(e.Regarding.UID),
				"regarding.apiVersion":      e.Regarding.APIVersion,
				"regarding.resourceVersion": e.Regarding.ResourceVersion,
				"regarding.fieldPath":       e.Regarding.FieldPath,
				"reason":                    e.Reason,
				"reportingController":       e.ReportingController,
				"type":                      e.Type,
			}
		},
		FieldNames: []string{"regarding.kind", "regarding.namespace", "regarding.name", "regarding.uid", "regarding.apiVersion",
			"regarding.resourceVersion", "regarding.fieldPath", "reason", "reportingController", "type"},
	})
}

// eventsIn completes a row with what both API versions have in common. Validation differs: the newer version's is strict.
func eventsIn(k *registry.Resource) *registry.Resource {
	gv := schema.GroupVersion{Group: k.Group, Version: "v1"}
	k.Kind, k.Resource, k.ShortNames, k.Namespaced = "Event", "events", []string{"ev"}, true
	k.Validate = checker(func(e *core.Event) field.ErrorList { return validation.ValidateEventCreate(e, gv) })
	k.ValidateUpdate = changer(func(e, old *core.Event) field.ErrorList { return validation.ValidateEventUpdate(e, old, gv) })
	k.AllowCreateOnUpdate, k.AllowUnconditionalUpdate = true, true
	return k
}
