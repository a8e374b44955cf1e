package definitions

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/util/cert"

	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/api/registry/builtin"
	"github.com/kontiki/kontiki/internal/kv"
)

// Names is the allocator of definitions: it sets the names that a definition gets, and the conditions that follow from them, when it is
// stored. Two definitions of a group never get the same name: a key of the group is changed in each command that gives a name.
type Names struct {
	Catalog *registry.Catalog
	Decode  Decode
}

// lockPrefix is that of the keys of groups.
const lockPrefix = "/allocated/customresourcenames/"

// Allocate implements objects.Allocator.
func (n *Names) Allocate(view kv.View, obj, old registry.Object, _ bool) ([]kv.Op, error) {
	if obj == nil {
		return n.free(view, old.(*apiextensionsv1.CustomResourceDefinition))
	}
	crd := obj.(*apiextensionsv1.CustomResourceDefinition)
	others, err := n.others(view, crd)
	if err != nil {
		return nil, err
	}
	before := crd.Status.AcceptedNames
	establish(crd, others)
	if approval := approved(crd); approval != nil {
		builtin.SetDefinitionCondition(crd, *approval)
	}
	if reflect.DeepEqual(before, crd.Status.AcceptedNames) {
		return nil, nil
	}
	lock := kv.Op{Key: lockPrefix + crd.Spec.Group, Value: []byte(crd.Name)}
	var revision uint64
	if v, ok := view.Get(lock.Key); ok {
		revision = v.ModRevision
	}
	lock.Cond, lock.Revision = kv.AtOrAbsent(revision), revision
	return []kv.Op{lock}, nil
}

// free changes the key of a group with each definition that goes, and removes it with the last: of two that go at once, one sees the other go.
func (n *Names) free(view kv.View, crd *apiextensionsv1.CustomResourceDefinition) ([]kv.Op, error) {
	v, ok := view.Get(lockPrefix + crd.Spec.Group)
	if !ok {
		return nil, nil
	}
	others, err := n.others(view, crd)
	if err != nil {
		return nil, err
	}
	op := kv.Op{Key: v.Key, Cond: kv.AtRevision, Revision: v.ModRevision}
	if len(others) > 0 {
		op.Value = []byte(crd.Name)
	} else {
		op.Delete = true
	}
	return []kv.Op{op}, nil
}

// others returns the other definitions of a definition's group.
func (n *Names) others(view kv.View, crd *apiextensionsv1.CustomResourceDefinition) (others []*apiextensionsv1.CustomResourceDefinition, err error) {
	kind, _ := n.Catalog.Table().ByGroupResource(Resource.Group, Resource.Resource)
	own := kind.Key("", crd.Name)
	view.Range(Prefix, kv.PrefixEnd(Prefix), func(v *kv.Version) bool {
		if !strings.HasSuffix(v.Key, "."+crd.Spec.Group) || v.Key == own {
			return true
		}
		obj, wrong := n.Decode(kind, v)
		if wrong != nil {
			err = apierrors.NewInternalError(wrong)
			return false
		}
		if other := obj.(*apiextensionsv1.CustomResourceDefinition); other.Spec.Group == crd.Spec.Group {
			others = append(others, other)
		}
		return true
	})
	return others, err
}

// establish gives a definition those of its names that no other has, and sets its conditions, as upstream's naming and establishing
// controllers do.
func establish(crd *apiextensionsv1.CustomResourceDefinition, others []*apiextensionsv1.CustomResourceDefinition) {
	if reflect.DeepEqual(crd.Spec.Names, crd.Status.AcceptedNames) && apihelpers.FindCRDCondition(crd, apiextensionsv1.Established) != nil {
		settle(crd)
		return
	}
	resources, kinds := sets.New[string](), sets.New[string]()
	for _, other := range others {
		names := &other.Status.AcceptedNames
		resources.Insert(names.Plural, names.Singular)
		resources.Insert(names.ShortNames...)
		kinds.Insert(names.Kind, names.ListKind)
	}
	wanted, accepted := &crd.Spec.Names, &crd.Status.AcceptedNames
	condition := apiextensionsv1.CustomResourceDefinitionCondition{
		Type: apiextensionsv1.NamesAccepted, Status: apiextensionsv1.ConditionTrue, Reason: "NoConflicts", Message: "no conflicts found",
	}
	refuse := func(reason string, err error) {
		condition.Status, condition.Reason, condition.Message = apiextensionsv1.ConditionFalse, reason, err.Error()
	}
	accept := func(name string, now *string, used sets.Set[string], reason string) {
		if name != *now && used.Has(name) {
			refuse(reason, inUse(name))
			return
		}
		*now = name
	}
	accept(wanted.Plural, &accepted.Plural, resources, "PluralConflict")
	accept(wanted.Singular, &accepted.Singular, resources, "SingularConflict")
	var taken []error
	for _, name := range wanted.ShortNames {
		if !slices.Contains(accepted.ShortNames, name) && resources.Has(name) {
			taken = append(taken, inUse(name))
		}
	}
	if err := utilerrors.NewAggregate(taken); err != nil {
		refuse("ShortNamesConflict", err)
	} else {
		accepted.ShortNames = wanted.ShortNames
	}
	accept(wanted.Kind, &accepted.Kind, kinds, "KindConflict")
	accept(wanted.ListKind, &accepted.ListKind, kinds, "ListKindConflict")
	accepted.Categories = wanted.Categories
	builtin.SetDefinitionCondition(crd, condition)
	settle(crd)
}

func inUse(name string) error { return fmt.Errorf("%q is already in use", name) }

// settle sets the condition Established. A definition that has once been established remains so.
func settle(crd *apiextensionsv1.CustomResourceDefinition) {
	if apihelpers.IsCRDConditionTrue(crd, apiextensionsv1.Established) {
		return
	}
	established := apiextensionsv1.CustomResourceDefinitionCondition{Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionFalse}
	switch {
	case !apihelpers.IsCRDConditionTrue(crd, apiextensionsv1.NamesAccepted):
		established.Reason, established.Message = "NotAccepted", "not all names are accepted"
	case wrongBundle(crd):
		established.Reason, established.Message = "InvalidCABundle", "The conversion webhook CABundle is invalid"
	default:
		established.Status, established.Reason, established.Message = apiextensionsv1.ConditionTrue, "InitialNamesAccepted", "the initial names have been accepted"
	}
	builtin.SetDefinitionCondition(crd, established)
}

// wrongBundle says whether the CAs of a definition's webhook cannot be read.
func wrongBundle(crd *apiextensionsv1.CustomResourceDefinition) bool {
	c := crd.Spec.Conversion
	if c == nil || c.Webhook == nil || c.Webhook.ClientConfig == nil || len(c.Webhook.ClientConfig.CABundle) == 0 {
		return false
	}
	_, err := cert.ParseCertsPEM(c.Webhook.ClientConfig.CABundle)
	return err != nil
}

// approved returns the condition of definitions in Kubernetes' own groups, nil for others.
func approved(crd *apiextensionsv1.CustomResourceDefinition) *apiextensionsv1.CustomResourceDefinitionCondition {
	if !apihelpers.IsProtectedCommunityGroup(crd.Spec.Group) {
		return nil
	}
	c := &apiextensionsv1.CustomResourceDefinitionCondition{Type: apiextensionsv1.KubernetesAPIApprovalPolicyConformant, Status: apiextensionsv1.ConditionFalse}
	state, text := apihelpers.GetAPIApprovalState(crd.Annotations)
	c.Message = text
	switch state {
	case apihelpers.APIApprovalInvalid:
		c.Reason = "InvalidAnnotation"
	case apihelpers.APIApprovalMissing:
		c.Reason = "MissingAnnotation"
	case apihelpers.APIApproved:
		c.Status, c.Reason = apiextensionsv1.ConditionTrue, "ApprovedAnnotation"
	case apihelpers.APIApprovalBypassed:
		c.Reason = "UnapprovedAnnotation"
	default:
		c.Status, c.Reason = apiextensionsv1.ConditionUnknown, "UnknownAnnotation"
	}
	return c
}
