package pods

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/credentialprovider"
	pullsecrets "k8s.io/kubernetes/pkg/credentialprovider/secrets"

	"github.com/kontiki/kontiki/node/pulls"
	"github.com/kontiki/kontiki/node/runtime"
)

// credential is one set of registry credentials, and the Secret of a pod that has it; nil if they are the node's, whose images every pod on it
// may use.
type credential struct {
	auth   runtime.Auth
	secret *pulls.Secret
}

// credentials returns what the pod's image pull secrets have for an image, the most specific first, and the names of Secrets that do not
// exist.
func (w *worker) credentials(pod *corev1.Pod, image string) (list []credential, missing []string, err error) {
	var secrets []corev1.Secret
	for _, ref := range pod.Spec.ImagePullSecrets {
		s, ok := w.m.c.Objects.Secret(pod.Namespace, ref.Name)
		if !ok {
			missing = append(missing, ref.Name)
			continue
		}
		secrets = append(secrets, *s)
	}
	if len(secrets) == 0 {
		return nil, missing, nil
	}
	ring, err := pullsecrets.MakeDockerKeyring(secrets, credentialprovider.UnionDockerKeyring{})
	if err != nil {
		return nil, missing, err
	}
	found, _ := ring.Lookup(pulls.Repository(image))
	for _, c := range found {
		one := credential{auth: runtime.Auth{Username: c.Username, Password: c.Password, IdentityToken: c.IdentityToken, RegistryToken: c.RegistryToken}}
		if c.Source == nil || c.Source.Secret == nil {
			continue
		}
		s := c.Source.Secret
		one.secret = &pulls.Secret{UID: s.UID, Namespace: s.Namespace, Name: s.Name, Hash: c.AuthConfigHash}
		list = append(list, one)
	}
	return list, missing, nil
}

// ofNode returns the node's own credentials for an image.
func (m *Manager) ofNode(ctx context.Context, image string) (list []credential) {
	if m.c.NodeCredentials == nil {
		return nil
	}
	for _, auth := range m.c.NodeCredentials(ctx, pulls.Repository(image)) {
		list = append(list, credential{auth: auth})
	}
	return list
}

// missingSecrets says that a pull that failed lacked Secrets.
func (w *worker) missingSecrets(missing []string) {
	if len(missing) > 0 {
		w.event("", corev1.EventTypeWarning, "FailedToRetrieveImagePullSecret", fmt.Sprintf("Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.", strings.Join(missing, ", ")))
	}
}
