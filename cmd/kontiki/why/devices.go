package why

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
)

// devices says what the claims for devices of a pod that has no node lack.
func (e *explanation) devices() error {
	if e.pod.Spec.NodeName != "" {
		return nil
	}
	for i := range e.pod.Spec.ResourceClaims {
		entry := &e.pod.Spec.ResourceClaims[i]
		name, generated, err := resourceclaim.Name(e.pod, entry)
		switch {
		case err != nil:
			why, err := e.unmade(entry)
			if err != nil {
				return err
			}
			e.line("Devices %s: %s", entry.Name, why)
			continue
		case name == nil:
			continue
		}
		claim, err := e.Client.ResourceV1().ResourceClaims(e.Namespace).Get(e.ctx, *name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			e.line("Devices %s: there is no claim %q", entry.Name, *name)
			continue
		case err != nil:
			return err
		}
		if generated && !metav1.IsControlledBy(claim, e.pod) {
			e.line("Devices %s: claim %q was not made for this pod", entry.Name, *name)
			continue
		}
		why, err := e.claim(claim)
		if err != nil {
			return err
		}
		e.line("Devices %s: claim %q %s", entry.Name, *name, why)
	}
	return nil
}

// unmade says why there may be no claim from a template.
func (e *explanation) unmade(entry *corev1.PodResourceClaim) (string, error) {
	if entry.ResourceClaimTemplateName == nil {
		return "it names neither a claim nor a template", nil
	}
	why := fmt.Sprintf("no claim has been made from template %q yet", *entry.ResourceClaimTemplateName)
	_, err := e.Client.ResourceV1().ResourceClaimTemplates(e.Namespace).Get(e.ctx, *entry.ResourceClaimTemplateName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return why + ", which does not exist", nil
	}
	return why, err
}

// claim says what a claim has, or what it needs.
func (e *explanation) claim(claim *resourcev1.ResourceClaim) (string, error) {
	switch {
	case claim.DeletionTimestamp != nil:
		return "is being deleted", nil
	case claim.Status.Allocation == nil:
		needs, err := e.needs(claim)
		return "is not allocated; it needs " + needs, err
	}
	var has, awaited []string
	for i := range claim.Status.Allocation.Devices.Results {
		r := &claim.Status.Allocation.Devices.Results[i]
		device := r.Driver + "/" + r.Pool + "/" + r.Device
		has = append(has, device)
		conditions := conditionsOf(claim, r)
		for _, name := range r.BindingFailureConditions {
			if meta.IsStatusConditionTrue(conditions, name) {
				awaited = append(awaited, fmt.Sprintf("condition %s of %s says that it has failed", name, device))
			}
		}
		for _, name := range r.BindingConditions {
			if !meta.IsStatusConditionTrue(conditions, name) {
				awaited = append(awaited, fmt.Sprintf("condition %s of %s is awaited", name, device))
			}
		}
	}
	why := "has " + abridged(has)
	if len(awaited) > 0 {
		why += "; " + strings.Join(awaited, ", ")
	}
	if n := len(claim.Status.ReservedFor); n >= resourcev1.ResourceClaimReservedForMaxSize && !resourceclaim.IsReservedForPod(e.pod, claim, false) {
		why += fmt.Sprintf("; %d pods use it, more cannot", n)
	}
	return why, nil
}

func conditionsOf(claim *resourcev1.ResourceClaim, r *resourcev1.DeviceRequestAllocationResult) []metav1.Condition {
	for i := range claim.Status.Devices {
		if d := &claim.Status.Devices[i]; d.Driver == r.Driver && d.Pool == r.Pool && d.Device == r.Device {
			return d.Conditions
		}
	}
	return nil
}

// needs lists the requests of a claim, with the classes that do not exist.
func (e *explanation) needs(claim *resourcev1.ResourceClaim) (string, error) {
	var failure error
	request := func(class string, mode resourcev1.DeviceAllocationMode, count int64) string {
		text := fmt.Sprintf("%d of class %s", count, class)
		if mode == resourcev1.DeviceAllocationModeAll {
			text = "all of class " + class
		}
		_, err := e.Client.ResourceV1().DeviceClasses().Get(e.ctx, class, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return text + " (there is no such class)"
		}
		if err != nil {
			failure = err
		}
		return text
	}
	var out []string
	for i := range claim.Spec.Devices.Requests {
		r := &claim.Spec.Devices.Requests[i]
		if r.Exactly != nil {
			out = append(out, r.Name+": "+request(r.Exactly.DeviceClassName, r.Exactly.AllocationMode, r.Exactly.Count))
			continue
		}
		var alternatives []string
		for j := range r.FirstAvailable {
			s := &r.FirstAvailable[j]
			alternatives = append(alternatives, request(s.DeviceClassName, s.AllocationMode, s.Count))
		}
		out = append(out, r.Name+": "+strings.Join(alternatives, " or "))
	}
	return strings.Join(out, ", "), failure
}
