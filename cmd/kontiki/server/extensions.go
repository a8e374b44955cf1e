package server

import (
	"time"

	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
	"github.com/kontiki/kontiki/controller/namespace"
)

// namespaceUser is as whom the namespace controller reaches the objects of extension API servers, through this master's API.
const namespaceUser = "system:serviceaccount:kube-system:namespace-controller"

// endNamespaces returns the controller that ends the deletion of namespaces, also of what extension API servers keep in them.
func (m *master) endNamespaces(c *client.Client) *controller.Controller {
	reach := &renewed[metadata.Interface]{
		connect: func() (*rest.Config, error) {
			return m.loopback(namespaceUser, "namespace-controller", deletionTimeout)
		},
		build: func(config *rest.Config) (metadata.Interface, error) { return metadata.NewForConfig(config) },
	}
	return namespace.New(c, &namespace.Extensions{Resources: m.api.Aggregated.Namespaced, Changed: m.api.Aggregated.Changed, Metadata: reach.get})
}

// deletionTimeout limits a request that may delete many objects.
const deletionTimeout = time.Minute
