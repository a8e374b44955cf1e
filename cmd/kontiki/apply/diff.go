package apply

import (
	"fmt"
	"io"

	"github.com/pmezard/go-difflib/difflib"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// showDifference prints the changes of each object as a unified diff.
func (r *run) showDifference() error {
	for _, t := range r.targets {
		before, err := shown(t.before, t.after, "before")
		if err != nil {
			return err
		}
		after, err := shown(t.after, t.before, "after")
		if err != nil {
			return err
		}
		if before == after {
			continue
		}
		text, err := difflib.GetUnifiedDiffString(difflib.UnifiedDiff{
			A: difflib.SplitLines(before), B: difflib.SplitLines(after), Context: 3,
			FromFile: fmt.Sprintf("%s (namespace %q, now)", t, t.namespace), ToFile: fmt.Sprintf("%s (after)", t),
		})
		if err != nil {
			return err
		}
		if _, err := io.WriteString(r.Out, text); err != nil {
			return err
		}
	}
	return nil
}

// content returns an object without the fields that the cluster maintains.
func content(u *unstructured.Unstructured) map[string]any {
	if u == nil {
		return nil
	}
	c := u.DeepCopy()
	for _, field := range []string{"managedFields", "resourceVersion", "uid", "creationTimestamp", "generation", "selfLink"} {
		unstructured.RemoveNestedField(c.Object, "metadata", field)
	}
	unstructured.RemoveNestedField(c.Object, "status")
	return c.Object
}

// shown returns an object as YAML for a diff with another one. For the data of Secrets it shows only whether they differ.
func shown(u, other *unstructured.Unstructured, when string) (string, error) {
	c := content(u)
	if c == nil {
		return "", nil
	}
	if u.GetKind() == "Secret" && u.GroupVersionKind().Group == "" {
		values, _, _ := unstructured.NestedMap(c, "data") // another type, so there is nothing to hide
		others, _, _ := unstructured.NestedMap(content(other), "data")
		for key, value := range values {
			values[key] = "***"
			if there, ok := others[key]; ok && there != value {
				values[key] = "*** (" + when + ")"
			}
		}
		if values != nil {
			c["data"] = values
		}
		if annotations := u.GetAnnotations(); annotations[lastApplied] != "" { // which contains the data
			annotations[lastApplied] = "***"
			(&unstructured.Unstructured{Object: c}).SetAnnotations(annotations)
		}
	}
	data, err := yaml.Marshal(c)
	return string(data), err
}

// differs says whether the transaction changes an object.
func differs(t *target) bool {
	return !equality.Semantic.DeepEqual(content(t.before), content(t.after))
}
