package static

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	podutil "k8s.io/kubernetes/pkg/api/pod"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/helper"
	_ "k8s.io/kubernetes/pkg/apis/core/install" // the scheme's types and defaults
	"k8s.io/kubernetes/pkg/apis/core/validation"
	"sigs.k8s.io/yaml"

	"github.com/kontiki/kontiki/internal/aliases"
)

// Annotations of static pods and of their mirror pods, as upstream's pkg/kubelet/types has them.
const (
	sourceAnnotation = "kubernetes.io/config.source"
	hashAnnotation   = "kubernetes.io/config.hash"
	mirrorAnnotation = corev1.MirrorPodAnnotationKey
)

var decoder = serializer.NewCodecFactory(legacyscheme.Scheme, serializer.EnableStrict).UniversalDeserializer()

// decode returns the pod that a file describes, as it runs on a node: defaulted and validated, bound to the node, with the node's name
// appended to its own. warning is about fields that are not known and have no effect; it is "" if there are none.
func decode(file string, data []byte, node string) (pod *corev1.Pod, warning string, err error) {
	json, err := document(data)
	if err != nil {
		return nil, "", err
	}
	object, kind, err := decoder.Decode(json, nil, nil)
	if runtime.IsStrictDecodingError(err) && object != nil {
		warning, err = err.Error(), nil
	}
	if err != nil {
		return nil, "", err
	}
	pod, ok := object.(*corev1.Pod)
	if !ok {
		return nil, "", fmt.Errorf("it describes a %s; want one Pod of apiVersion v1", kind.Kind)
	}
	if err := checkMetadata(&pod.ObjectMeta); err != nil {
		return nil, "", err
	}
	// What else a pod that was read from a cluster has does not describe it.
	pod.ObjectMeta = metav1.ObjectMeta{Name: pod.Name, Namespace: pod.Namespace, Labels: pod.Labels, Annotations: pod.Annotations}
	pod.Status = corev1.PodStatus{}
	legacyscheme.Scheme.Default(pod)
	internal := &core.Pod{}
	if err := legacyscheme.Scheme.Convert(pod, internal, nil); err != nil {
		return nil, "", err
	}
	place(internal, file, json, node)
	options := podutil.GetValidationOptionsFromPodSpecAndMeta(&internal.Spec, nil, &internal.ObjectMeta, nil)
	if problems := validation.ValidatePodCreate(internal, options); len(problems) > 0 {
		return nil, "", fmt.Errorf("invalid pod: %w", problems.ToAggregate())
	}
	refers, resource, err := podutil.HasAPIObjectReference(internal)
	if err != nil {
		return nil, "", err
	}
	if refers {
		return nil, "", fmt.Errorf("static pods may not reference %s", resource)
	}
	pod = &corev1.Pod{}
	if err := legacyscheme.Scheme.Convert(internal, pod, nil); err != nil {
		return nil, "", err
	}
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionTrue}}
	return pod, warning, nil
}

// document returns the only document of a file, as JSON with sorted keys.
func document(data []byte) ([]byte, error) {
	var only []byte
	for reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(data))); ; {
		part, err := reader.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("neither YAML nor JSON: %w", err)
		}
		if err := aliases.Check(part, maxFile); err != nil {
			return nil, err
		}
		json, err := yaml.YAMLToJSON(part)
		if err != nil {
			return nil, fmt.Errorf("neither YAML nor JSON: %w", err)
		}
		switch {
		case string(json) == "null": // comments
		case only != nil:
			return nil, errors.New("it has several documents; want a file for each pod")
		default:
			only = json
		}
	}
	if only == nil {
		return nil, errors.New("it is empty")
	}
	return only, nil
}

// checkMetadata refuses what a file cannot decide.
func checkMetadata(m *metav1.ObjectMeta) error {
	switch {
	case m.Name == "":
		return errors.New("metadata.name: a static pod needs a name")
	case m.UID != "":
		return errors.New("metadata.uid: must not be set; it is computed from the file")
	case m.DeletionTimestamp != nil:
		return errors.New("metadata.deletionTimestamp: must not be set; remove the file to end the pod")
	case len(m.OwnerReferences) > 0:
		return errors.New("metadata.ownerReferences: must not be set; the node is the owner")
	case len(m.Finalizers) > 0:
		return errors.New("metadata.finalizers: must not be set")
	}
	if _, ok := m.Annotations[mirrorAnnotation]; ok {
		return fmt.Errorf("metadata.annotations: %s must not be set", mirrorAnnotation)
	}
	return nil
}

// place makes a pod one of a node and a file.
func place(pod *core.Pod, file string, json []byte, node string) {
	hash := sha256.New()
	fmt.Fprintf(hash, "host:%s\x00file:%s\x00", node, file)
	hash.Write(json) // its keys are sorted
	pod.UID = types.UID(hex.EncodeToString(hash.Sum(nil)[:16]))
	pod.Name += "-" + strings.ToLower(node)
	if pod.Namespace == "" {
		pod.Namespace = metav1.NamespaceDefault
	}
	pod.Spec.NodeName = node
	metav1.SetMetaDataAnnotation(&pod.ObjectMeta, hashAnnotation, string(pod.UID))
	metav1.SetMetaDataAnnotation(&pod.ObjectMeta, sourceAnnotation, "file")
	// It stays when there are problems with the node.
	helper.AddOrUpdateTolerationInPod(pod, &core.Toleration{Operator: core.TolerationOpExists, Effect: core.TaintEffectNoExecute})
	pod.Status.Phase = core.PodPending
}
