package rest

import (
	"net/http"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// serveNoDefinitions answers a list of CustomResourceDefinitions: there are none, as custom resources are not built yet.
// Clients ask for it before they say that a kind is unknown (kubectl's validation, for one), and take an error for the
// answer to their user's question. It is not part of discovery, and every other request for them is refused.
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
