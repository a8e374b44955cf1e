package admission

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	resourcehelper "k8s.io/component-helpers/resource"

	"github.com/kontiki/kontiki/api/objects"
)

var claims = corev1.Resource("persistentvolumeclaims")

// limitRangerAnnotation tells what the step has set.
const limitRangerAnnotation = "kubernetes.io/limit-ranger"

// limitRanger gives containers the default resources of the namespace's LimitRanges, and refuses pods and claims that are not within
// their limits.
func limitRanger() objects.Step {
	return objects.Step{
		Name: "LimitRanger",
		Handles: func(a *objects.Attributes) bool {
			switch a.Operation {
			case objects.OpCreate:
				return a.Is(pods, "") || a.Is(claims, "")
			case objects.OpUpdate:
				return (a.Is(pods, "resize") || a.Is(claims, "")) && !deleting(a.Old)
			}
			return false
		},
		Mutate: func(_ context.Context, a *objects.Attributes) error {
			pod, ok := a.Object.(*corev1.Pod)
			if !ok {
				return nil
			}
			return objects.EachStored(a, a.Namespace, func(r *corev1.LimitRange) bool {
				setDefaults(pod, r)
				return true
			})
		},
		Validate: func(_ context.Context, a *objects.Attributes) error {
			var refused error
			err := objects.EachStored(a, a.Namespace, func(r *corev1.LimitRange) bool {
				if errs := checkLimits(r, a); len(errs) > 0 {
					refused = a.Forbid("%w", utilerrors.NewAggregate(errs))
				}
				return refused == nil
			})
			if err != nil {
				return err
			}
			return refused
		},
	}
}

func setDefaults(pod *corev1.Pod, r *corev1.LimitRange) {
	requests, limits := corev1.ResourceList{}, corev1.ResourceList{}
	for _, item := range r.Spec.Limits {
		if item.Type == corev1.LimitTypeContainer {
			for name, q := range item.DefaultRequest {
				requests[name] = q
			}
			for name, q := range item.Default {
				limits[name] = q
			}
		}
	}
	var told []string
	for _, list := range []struct {
		containers []corev1.Container
		kind       string
	}{{pod.Spec.Containers, "container"}, {pod.Spec.InitContainers, "init container"}} {
		for i := range list.containers {
			c := &list.containers[i]
			for _, of := range []struct {
				have     *corev1.ResourceList
				defaults corev1.ResourceList
				kind     string
			}{{&c.Resources.Requests, requests, "request"}, {&c.Resources.Limits, limits, "limit"}} {
				if set := fillIn(of.have, of.defaults); len(set) > 0 {
					told = append(told, fmt.Sprintf("%s %s for %s %s", strings.Join(set, ", "), of.kind, list.kind, c.Name))
				}
			}
		}
	}
	if len(told) > 0 {
		if pod.Annotations == nil {
			pod.Annotations = map[string]string{}
		}
		pod.Annotations[limitRangerAnnotation] = "LimitRanger plugin set: " + strings.Join(told, "; ")
	}
}

// fillIn adds the quantities that a list lacks, and returns their names.
func fillIn(have *corev1.ResourceList, defaults corev1.ResourceList) (set []string) {
	for name, q := range defaults {
		if _, ok := (*have)[name]; ok {
			continue
		}
		if *have == nil {
			*have = corev1.ResourceList{}
		}
		(*have)[name] = q.DeepCopy()
		set = append(set, string(name))
	}
	slices.Sort(set)
	return set
}

// checkLimits returns how an object violates a LimitRange.
func checkLimits(r *corev1.LimitRange, a *objects.Attributes) (errs []error) {
	for _, item := range r.Spec.Limits {
		switch obj := a.Object.(type) {
		case *corev1.Pod:
			switch item.Type {
			case corev1.LimitTypeContainer:
				for _, list := range [][]corev1.Container{obj.Spec.Containers, obj.Spec.InitContainers} {
					for _, c := range list {
						errs = append(errs, checkItem(item, c.Resources.Requests, c.Resources.Limits)...)
					}
				}
			case corev1.LimitTypePod:
				options := resourcehelper.PodResourcesOptions{ExcludeOverhead: true}
				errs = append(errs, checkItem(item, resourcehelper.PodRequests(obj, options), resourcehelper.PodLimits(obj, options))...)
			}
		case *corev1.PersistentVolumeClaim:
			if item.Type == corev1.LimitTypePersistentVolumeClaim {
				errs = append(errs, checkClaim(item, obj.Spec.Resources.Requests)...)
			}
		}
	}
	return errs
}

func checkItem(item corev1.LimitRangeItem, requests, limits corev1.ResourceList) (errs []error) {
	refuse := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for _, name := range sortedNames(item.Min) {
		least, request, limit := item.Min[name], requests[name], limits[name]
		_, requested := requests[name]
		_, limited := limits[name]
		switch {
		case !requested:
			refuse("minimum %s usage per %s is %s.  No request is specified", name, item.Type, least.String())
		case request.Cmp(least) < 0:
			refuse("minimum %s usage per %s is %s, but request is %s", name, item.Type, least.String(), request.String())
		case limited && limit.Cmp(least) < 0:
			refuse("minimum %s usage per %s is %s, but limit is %s", name, item.Type, least.String(), limit.String())
		}
	}
	for _, name := range sortedNames(item.Max) {
		most, request, limit := item.Max[name], requests[name], limits[name]
		_, requested := requests[name]
		_, limited := limits[name]
		switch {
		case !limited:
			refuse("maximum %s usage per %s is %s.  No limit is specified", name, item.Type, most.String())
		case limit.Cmp(most) > 0:
			refuse("maximum %s usage per %s is %s, but limit is %s", name, item.Type, most.String(), limit.String())
		case requested && request.Cmp(most) > 0:
			refuse("maximum %s usage per %s is %s, but request is %s", name, item.Type, most.String(), request.String())
		}
	}
	for _, name := range sortedNames(item.MaxLimitRequestRatio) {
		ratio, request, limit := item.MaxLimitRequestRatio[name], requests[name], limits[name]
		switch {
		case request.IsZero():
			refuse("%s max limit to request ratio per %s is %s, but no request is specified or request is 0", name, item.Type, ratio.String())
		case limit.IsZero():
			refuse("%s max limit to request ratio per %s is %s, but no limit is specified or limit is 0", name, item.Type, ratio.String())
		default:
			if observed := limit.AsApproximateFloat64() / request.AsApproximateFloat64(); observed > ratio.AsApproximateFloat64() {
				refuse("%s max limit to request ratio per %s is %s, but provided ratio is %f", name, item.Type, ratio.String(), observed)
			}
		}
	}
	return errs
}

// checkClaim is checkItem for claims, which have no limits.
func checkClaim(item corev1.LimitRangeItem, requests corev1.ResourceList) (errs []error) {
	errs = checkItem(corev1.LimitRangeItem{Type: item.Type, Min: item.Min}, requests, nil)
	for _, name := range sortedNames(item.Max) {
		most := item.Max[name]
		request, requested := requests[name]
		switch {
		case !requested:
			errs = append(errs, fmt.Errorf("maximum %s usage per %s is %s.  No request is specified", name, item.Type, most.String()))
		case request.Cmp(most) > 0:
			errs = append(errs, fmt.Errorf("maximum %s usage per %s is %s, but request is %s", name, item.Type, most.String(), request.String()))
		}
	}
	return errs
}

func sortedNames(list map[corev1.ResourceName]resource.Quantity) []corev1.ResourceName {
	names := make([]corev1.ResourceName, 0, len(list))
	for name := range list {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
