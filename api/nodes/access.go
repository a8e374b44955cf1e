package nodes

import (
	"context"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
)

// A worker may write only what concerns itself: the status of its node and of the pods that run there, events about these, and some
// labels. So a stolen certificate can be used to lie about that host, and about nothing else.

// labelsOfOurs are the labels in Kubernetes' own domains that a worker may set on its node, as in upstream's NodeRestriction.
// Labels in other domains are not restricted, except restrictedLabels.
var labelsOfOurs = map[string]bool{
	corev1.LabelHostname: true, corev1.LabelOSStable: true, corev1.LabelArchStable: true, corev1.LabelTopologyZone: true, corev1.LabelTopologyRegion: true,
	corev1.LabelInstanceTypeStable: true, corev1.LabelInstanceType: true, corev1.LabelFailureDomainBetaZone: true, corev1.LabelFailureDomainBetaRegion: true,
	"beta.kubernetes.io/os": true, "beta.kubernetes.io/arch": true,
}

// mayLabel says whether a worker may set a label on its node. Pods with Secrets may be restricted to certain nodes by labels in
// node-restriction.kubernetes.io and by roles, which only administrators may set.
func mayLabel(key string) bool {
	domain, _, ok := strings.Cut(key, "/")
	if !ok || labelsOfOurs[key] {
		return true
	}
	for _, free := range []string{"kubelet.kubernetes.io", "node.kubernetes.io"} {
		if domain == free || strings.HasSuffix(domain, "."+free) {
			return true
		}
	}
	for _, ours := range []string{"kubernetes.io", "k8s.io"} {
		if domain == ours || strings.HasSuffix(domain, "."+ours) {
			return false
		}
	}
	return true
}

// ownLabels divides the labels that a worker requests into those that it may set and those that it may not.
func ownLabels(asked map[string]string) (own map[string]string, refused []string) {
	own = map[string]string{}
	for key, value := range asked {
		if mayLabel(key) {
			own[key] = value
		} else {
			refused = append(refused, key)
		}
	}
	return own, refused
}

// ownNode returns the part of a reported Node that a worker may create.
func ownNode(reported *corev1.Node) *corev1.Node {
	labels, _ := ownLabels(reported.Labels)
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: reported.Name, Labels: labels, Annotations: ownAnnotations(reported.Annotations)},
		Spec:       corev1.NodeSpec{ProviderID: reported.Spec.ProviderID, Taints: reported.Spec.Taints},
		Status:     *reported.Status.DeepCopy(),
	}
}

// mayReportEvent returns an error if the worker may not write an event: it must be about the worker's node or a pod there (a pod
// that no longer exists may have been there), and must not replace an event of another host.
func (s *session) mayReportEvent(event *corev1.Event) error {
	about := event.InvolvedObject
	v := s.Client.View()
	switch about.Kind {
	case "Node":
		if about.Name != s.node {
			return fmt.Errorf("it is about the node %q, the worker is %q", about.Name, s.node)
		}
	case "Pod":
		if about.Namespace != event.Namespace {
			return fmt.Errorf("it is in the namespace %q, about a pod in %q", event.Namespace, about.Namespace)
		}
		if pod, ok := client.Get[*corev1.Pod](v, about.Namespace, about.Name); ok && pod.Spec.NodeName != s.node {
			return fmt.Errorf("it is about the pod %s/%s, which is not on the node %q", about.Namespace, about.Name, s.node)
		}
	default:
		return fmt.Errorf("it is about a %s; a worker may report events about its node and pods only", about.Kind)
	}
	return nil
}

// mayReplaceEvent returns an error if the worker may not replace the existing event.
func (s *session) mayReplaceEvent(ctx context.Context, event *corev1.Event) error {
	v, err := s.Client.Consistent(ctx)
	if err != nil {
		return err
	}
	if stored, ok := client.Get[*corev1.Event](v, event.Namespace, event.Name); ok && stored.Source.Host != s.node {
		return fmt.Errorf("the event %s/%s belongs to another host", event.Namespace, event.Name)
	}
	return nil
}

// mayAsk returns an error if a worker may not get a token for the audiences: a volume of the pod must request them. Otherwise a
// stolen worker could impersonate its pods at every service that trusts their accounts (upstream's
// ServiceAccountNodeAudienceRestriction).
func mayAsk(pod *corev1.Pod, audiences []string) error {
	audience := ""
	switch len(audiences) {
	case 0:
	case 1:
		audience = audiences[0]
	default:
		return errors.New("node may only request 0 or 1 audiences")
	}
	for _, volume := range pod.Spec.Volumes {
		if volume.Projected == nil {
			continue
		}
		for _, source := range volume.Projected.Sources {
			if source.ServiceAccountToken != nil && source.ServiceAccountToken.Audience == audience {
				return nil
			}
		}
	}
	return fmt.Errorf("audience %q not found in pod spec volume", audience)
}
