package admission

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	podsecurity "k8s.io/pod-security-admission/admission"

	"github.com/kontiki/kontiki/api/auth"
	"github.com/kontiki/kontiki/api/objects"
)

// Config has what the steps need.
type Config struct {
	// TolerationSeconds is how long pods stay on a node that is not ready or not reachable, unless they have tolerations for that.
	TolerationSeconds int64
	// Authorizer decides what steps ask beside what the request is about.
	Authorizer auth.Authorizer
	// Enable and Disable are the names of steps that run besides those that run by default, and of those that do not run.
	Enable, Disable []string
	// Configuration is the content of upstream's admission configuration (AdmissionConfiguration) with the configurations of steps, nil for
	// none. ReadFile reads the files that it names.
	Configuration []byte
	ReadFile      func(path string) ([]byte, error)
	// Now defaults to the wall clock.
	Now func() time.Time

	podSecurity *podsecurity.Admission
	eventLimits []eventLimit
	// Extra are steps of other packages. A step with a name in the order of the table is placed there.
	Extra []objects.Step
}

// order has the names of all of upstream's plugins, in the order in which they run.
var order = []string{
	"AlwaysAdmit", "NamespaceAutoProvision", "NamespaceLifecycle", "NamespaceExists", "LimitPodHardAntiAffinityTopology", "LimitRanger",
	"ServiceAccount", "NodeRestriction", "TaintNodesByCondition", "AlwaysPullImages", "ImagePolicyWebhook", "PodSecurity", "PodNodeSelector",
	"Priority", "DefaultTolerationSeconds", "PodTolerationRestriction", "EventRateLimit", "ExtendedResourceToleration", "DefaultStorageClass",
	"StorageObjectInUseProtection", "PodGroupProtection", "OwnerReferencesPermissionEnforcement", "PersistentVolumeClaimResize",
	"RuntimeClass", "CertificateApproval", "CertificateSigning", "ClusterTrustBundleAttest", "CertificateSubjectRestriction",
	"DefaultIngressClass", "DenyServiceExternalIPs", "PodTopologyLabels", "NodeDeclaredFeatureValidator", "PodResizeValidator",
	"MutatingAdmissionPolicy", "MutatingAdmissionWebhook", "ValidatingAdmissionPolicy", "ValidatingAdmissionWebhook", "ResourceQuota",
	"AlwaysDeny",
}

// steps returns the steps of this package.
func steps(c Config) []objects.Step {
	return []objects.Step{
		namespaceLifecycle(),
		limitRanger(),
		serviceAccount(),
		nodeRestriction(c.Authorizer),
		taintNodesByCondition(),
		alwaysPullImages(),
		podSecurity(c.podSecurity),
		priority(),
		defaultTolerationSeconds(c.TolerationSeconds),
		eventRateLimit(c.eventLimits, c.Now),
		extendedResourceToleration(),
		defaultStorageClass(),
		storageObjectInUseProtection(),
		ownerReferences(c.Authorizer),
		persistentVolumeClaimResize(),
		runtimeClass(),
		certificateApproval(c.Authorizer),
		certificateSigning(c.Authorizer),
		clusterTrustBundleAttest(c.Authorizer),
		certificateSubjectRestriction(),
		defaultIngressClass(),
		denyServiceExternalIPs(),
		podTopologyLabels(),
		podResizeValidator(),
		deletionProtection(),
		resourceClaims(c.Authorizer),
		policyParameters(c.Authorizer),
		followedConfiguration(c.Authorizer),
		wakeAnnotation(c.Authorizer),
	}
}

// offByDefault are the steps that run only if they are enabled, as upstream.
var offByDefault = []string{"AlwaysPullImages", "DenyServiceExternalIPs", "EventRateLimit", "ExtendedResourceToleration", "OwnerReferencesPermissionEnforcement"}

// Steps returns the table of steps that run, in upstream's order.
func Steps(c Config) ([]objects.Step, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	if err := c.configure(); err != nil {
		return nil, fmt.Errorf("admission configuration: %w", err)
	}
	all := append(steps(c), c.Extra...)
	for _, name := range append(slices.Clone(c.Enable), c.Disable...) {
		if !slices.Contains(order, name) {
			return nil, fmt.Errorf("admission plugin %q is unknown", name)
		}
	}
	for _, name := range c.Enable {
		if slices.Contains(c.Disable, name) {
			return nil, fmt.Errorf("%v in enable-admission-plugins and disable-admission-plugins overlapped", name)
		}
		if !slices.ContainsFunc(all, func(s objects.Step) bool { return s.Name == name }) {
			return nil, fmt.Errorf("admission plugin %q is not built; these are: %s", name, strings.Join(names(all), ", "))
		}
	}
	all = slices.DeleteFunc(all, func(s objects.Step) bool {
		return slices.Contains(c.Disable, s.Name) || slices.Contains(offByDefault, s.Name) && !slices.Contains(c.Enable, s.Name)
	})
	slices.SortStableFunc(all, func(a, b objects.Step) int { return slices.Index(order, a.Name) - slices.Index(order, b.Name) })
	return all, nil
}

func names(steps []objects.Step) (out []string) {
	for _, s := range steps {
		out = append(out, s.Name)
	}
	return out
}

// handles returns a function for objects.Step.Handles: the operations on a resource, without its subresources.
func handles(resource schema.GroupResource, operations ...objects.Operation) func(*objects.Attributes) bool {
	return func(a *objects.Attributes) bool {
		return a.Is(resource, "") && slices.Contains(operations, a.Operation)
	}
}

var pods = corev1.Resource("pods")

// deleting says whether a stored object is being deleted.
func deleting(obj runtime.Object) bool {
	meta, ok := obj.(metav1.Object)
	return ok && meta.GetDeletionTimestamp() != nil
}
