package custom

import (
	"fmt"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/util/jsonpath"

	"github.com/kontiki/kontiki/api/registry"
)

// selectable are the fields of a version by which objects can be selected.
type selectable []selectableField

type selectableField struct {
	name string
	path *jsonpath.JSONPath
}

func newSelectable(from []apiextensionsv1.SelectableField) (out selectable) {
	for _, f := range from {
		path := jsonpath.New("selectableField").AllowMissingKeys(true)
		if err := path.Parse("{" + f.JSONPath + "}"); err != nil {
			continue // validation has accepted it, so there is none
		}
		out = append(out, selectableField{strings.TrimPrefix(f.JSONPath, "."), path})
	}
	return out
}

func (s selectable) names() (names []string) {
	for _, f := range s {
		names = append(names, f.name)
	}
	return names
}

// of returns the fields of an object; absent ones are empty.
func (s selectable) of(obj registry.Object) fields.Set {
	set := fields.Set{}
	for _, f := range s {
		set[f.name] = ""
		results, err := f.path.FindResults(obj.(*unstructured.Unstructured).Object)
		if err == nil && len(results) > 0 && len(results[0]) > 0 {
			if value := results[0][0].Interface(); value != nil {
				set[f.name] = fmt.Sprint(value)
			}
		}
	}
	return set
}
