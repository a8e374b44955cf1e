package audit

import (
	"bytes"
	"encoding/json"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/internal/aliases"
)

// patchJSON returns a patch as JSON. An applied configuration may be YAML.
func patchJSON(p objects.Patch) ([]byte, bool) {
	if p.Type == types.ApplyYAMLPatchType {
		if aliases.Check(p.Data, objects.MaxBodyBytes) != nil {
			return nil, false
		}
		raw, err := yaml.YAMLToJSON(p.Data)
		return raw, err == nil
	}
	return p.Data, json.Valid(p.Data)
}

// withoutManagedFields removes metadata.managedFields from an object, from the items of a list, and from the objects of a Table's
// rows.
func withoutManagedFields(raw []byte) ([]byte, error) {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	var object map[string]any
	if err := decoder.Decode(&object); err != nil {
		return nil, err
	}
	dropManagedFields(object)
	for _, item := range asList(object["items"]) {
		dropManagedFields(item)
	}
	for _, row := range asList(object["rows"]) {
		if fields, ok := row.(map[string]any); ok {
			dropManagedFields(fields["object"])
		}
	}
	return json.Marshal(object)
}

func asList(value any) []any {
	list, _ := value.([]any)
	return list
}

func dropManagedFields(object any) {
	fields, _ := object.(map[string]any)
	metadata, _ := fields["metadata"].(map[string]any)
	delete(metadata, "managedFields")
}
