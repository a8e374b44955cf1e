package namespace

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"

	"github.com/kontiki/kontiki/api/client"
)

// content counts what remains in a namespace.
type content struct {
	total      int
	resources  map[string]int // by resource.group
	finalizers map[string]int
}

func newContent() *content {
	return &content{resources: map[string]int{}, finalizers: map[string]int{}}
}

// more counts further objects, of which no more is known.
func (c *content) more(of schema.GroupResource, n int) {
	c.total += n
	c.resources[of.Resource+"."+of.Group] += n
}

func (c *content) count(of schema.GroupResource, obj *client.Metadata) {
	c.more(of, 1)
	for _, f := range obj.GetFinalizers() {
		c.finalizers[f]++
	}
}

func (c *content) add(more *content, failures []error) []error {
	c.total += more.total
	for k, n := range more.resources {
		c.resources[k] += n
	}
	for k, n := range more.finalizers {
		c.finalizers[k] += n
	}
	return failures
}

// fine are the conditions when nothing blocks the deletion, in their order.
var fine = []corev1.NamespaceCondition{
	{Type: corev1.NamespaceDeletionDiscoveryFailure, Reason: "ResourcesDiscovered", Message: "All resources successfully discovered"},
	{Type: corev1.NamespaceDeletionGVParsingFailure, Reason: "ParsedGroupVersions", Message: "All legacy kube types successfully parsed"},
	{Type: corev1.NamespaceDeletionContentFailure, Reason: "ContentDeleted", Message: "All content successfully deleted, may be waiting on finalization"},
	{Type: corev1.NamespaceContentRemaining, Reason: "ContentRemoved", Message: "All content successfully removed"},
	{Type: corev1.NamespaceFinalizersRemaining, Reason: "ContentHasNoFinalizers", Message: "All content-preserving finalizers finished"},
}

// conditions returns the conditions that describe what blocks the deletion: what could not be deleted, what is not known, what remains. The
// second one never does, since every name of a group version here has been read before.
func (c *content) conditions(failed []error, unknown error) []corev1.NamespaceCondition {
	out := slices.Clone(fine)
	for i := range out {
		out[i].Status = corev1.ConditionFalse
	}
	set := func(i int, reason, message string) {
		out[i].Status, out[i].Reason, out[i].Message = corev1.ConditionTrue, reason, message
	}
	if unknown != nil {
		message := unknown.Error()
		if groups := (*discovery.ErrGroupDiscoveryFailed)(nil); errors.As(unknown, &groups) {
			message = fmt.Sprintf("Discovery failed for some groups, %d failing: %v", len(groups.Groups), unknown)
		}
		set(0, "DiscoveryFailed", message)
	}
	if len(failed) > 0 {
		var messages []string
		for _, err := range failed {
			messages = append(messages, err.Error())
		}
		slices.Sort(messages)
		set(2, "ContentDeletionFailed", fmt.Sprintf("Failed to delete all resource types, %d remaining: %v", len(messages), strings.Join(messages, ", ")))
	}
	if c.total > 0 {
		set(3, "SomeResourcesRemain", "Some resources are remaining: "+listed(c.resources, "%s has %d resource instances"))
	}
	if len(c.finalizers) > 0 {
		set(4, "SomeFinalizersRemain", "Some content in the namespace has finalizers remaining: "+listed(c.finalizers, "%s in %d resource instances"))
	}
	return out
}

func listed(counts map[string]int, format string) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf(format, name, counts[name]))
	}
	return strings.Join(parts, ", ")
}

// setConditions sets a status's conditions to the wanted ones. Others are not changed.
func setConditions(status *corev1.NamespaceStatus, wanted []corev1.NamespaceCondition) (changed bool) {
	for _, w := range wanted {
		i := slices.IndexFunc(status.Conditions, func(c corev1.NamespaceCondition) bool { return c.Type == w.Type })
		if i < 0 {
			w.LastTransitionTime = metav1.Now()
			status.Conditions = append(status.Conditions, w)
			changed = true
			continue
		}
		have := &status.Conditions[i]
		if have.Status == w.Status && have.Reason == w.Reason && have.Message == w.Message {
			continue
		}
		w.LastTransitionTime = have.LastTransitionTime
		if have.Status != w.Status {
			w.LastTransitionTime = metav1.Now()
		}
		*have = w
		changed = true
	}
	return changed
}
