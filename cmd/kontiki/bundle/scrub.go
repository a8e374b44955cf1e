package bundle

import (
	"fmt"
	"strings"
)

// hidden stands in place of what is left out.
const hidden = "(hidden)"

// scrub changes an object, decoded from JSON, so that nothing is left of it in which people keep secrets: the content of ConfigMaps and Secrets
// (their keys and sizes stay), environment, commands and arguments of containers, headers of probes and hooks, attributes and options of
// volumes, termination messages, and annotations but those of Kubernetes and Kontiki. Managed fields go too: they repeat names only, at length.
func scrub(object map[string]any) {
	for key, value := range object {
		switch key {
		case "managedFields":
			delete(object, key)
		case "data", "stringData", "binaryData":
			object[key] = sizes(value)
		case "annotations":
			annotations(value)
		case "command", "args":
			if list, ok := value.([]any); ok {
				object[key] = fmt.Sprintf("(%d hidden)", len(list))
			}
		case "env", "httpHeaders":
			hideValues(value)
		case "volumeAttributes", "options", "parameters", "matchAttributes":
			hideAll(value)
		case "terminated":
			if m, ok := value.(map[string]any); ok && m["message"] != nil {
				m["message"] = hidden // which the container wrote
			}
		case "token", "caBundle", "request", "certificate":
			if _, ok := value.(string); ok {
				object[key] = hidden
			}
		default:
			walk(value)
		}
	}
}

// walk scrubs what is below a value.
func walk(value any) {
	switch v := value.(type) {
	case map[string]any:
		scrub(v)
	case []any:
		for _, item := range v {
			walk(item)
		}
	}
}

// sizes returns the length of each value of a map; of other things nothing.
func sizes(value any) any {
	m, ok := value.(map[string]any)
	if !ok {
		return hidden
	}
	out := map[string]any{}
	for key, v := range m {
		text, ok := v.(string)
		if !ok {
			out[key] = hidden
			continue
		}
		out[key] = fmt.Sprintf("(%d bytes hidden)", len(text))
	}
	return out
}

// annotations hides those that are not known to have no secrets. kubectl's copy of what was applied has all that is hidden elsewhere.
func annotations(value any) {
	m, ok := value.(map[string]any)
	if !ok {
		return
	}
	for key := range m {
		domain, _, _ := strings.Cut(key, "/")
		known := domain == "kontiki.io" || domain == "kubernetes.io" || strings.HasSuffix(domain, ".kubernetes.io") || strings.HasSuffix(domain, ".k8s.io")
		if !known || domain == "kubectl.kubernetes.io" {
			m[key] = hidden
		}
	}
}

// hideValues hides the field value of each item of a list; the names stay.
func hideValues(value any) {
	list, _ := value.([]any)
	for _, item := range list {
		if m, ok := item.(map[string]any); ok && m["value"] != nil {
			m["value"] = hidden
		}
	}
}

// hideAll hides all values of a map.
func hideAll(value any) {
	m, _ := value.(map[string]any)
	for key := range m {
		m[key] = hidden
	}
}
