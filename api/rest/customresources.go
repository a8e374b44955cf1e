package rest

import (
	"net/http"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// serveNoDefinitions responds to a list of CustomResourceDefinitions with an empty list, as custom resources are not built yet.
// Some clients (kubectl's validation, for example) list them before they report an unknown kind, and would report an error of this
// list instead. The resource is not part of discovery, and every other request for it is refused.
func (c *call) serveNoDefinitions() bool {
	t := c.target
	if t.group != "apiextensions.k8s.io" || t.version != "v1" || t.resource != "customresourcedefinitions" || c.verb != "list" {
		return false
	}
	writeJSON(c.w, http.StatusOK, &metav1.PartialObjectMetadataList{
		TypeMeta: metav1.TypeMeta{APIVersion: "apiextensions.k8s.io/v1", Kind: "CustomResourceDefinitionList"},
		Items:    []metav1.PartialObjectMetadata{},
	})
	return true
}
