package authz

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/kubernetes/pkg/auth/nodeidentifier"
	"k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac/bootstrappolicy"

	"github.com/kontiki/kontiki/api/auth"
	"github.com/kontiki/kontiki/api/client"
)

var (
	_ auth.Authorizer = (*Nodes)(nil)
	_ auth.Coarse     = (*Nodes)(nil)
)

// Nodes authorizes nodes (system:node:NAME in the group system:nodes), as upstream's node authorizer: a node reads what its pods use,
// and writes what is about itself and its pods. What the authorizer cannot know, because it is in the body, the admission step
// NodeRestriction checks.
type Nodes struct {
	// Client must be set before the first use.
	Client *client.Client
	rules  []rbacv1.PolicyRule
}

// NewNodes returns a Nodes.
func NewNodes() *Nodes { return &Nodes{rules: bootstrappolicy.NodeRules()} }

// NodeOf returns the name of the node that a user is; isNode is true for members of system:nodes, and the name is empty for those that
// cannot be identified.
func NodeOf(u user.Info) (name string, isNode bool) { return identifier.NodeIdentity(u) }

var identifier = nodeidentifier.NewDefaultNodeIdentifier()

// Authorize implements auth.Authorizer.
func (n *Nodes) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	node, isNode := NodeOf(a.GetUser())
	switch {
	case !isNode:
		return authorizer.DecisionNoOpinion, "", nil
	case node == "":
		return authorizer.DecisionNoOpinion, fmt.Sprintf("unknown node for user %q", a.GetUser().GetName()), nil
	}
	if a.IsResourceRequest() {
		if rule, ok := nodeResources[schema.GroupResource{Group: a.GetAPIGroup(), Resource: a.GetResource()}]; ok {
			if refusal := rule(n, node, a); refusal != allowed {
				return authorizer.DecisionNoOpinion, refusal, nil
			}
			return authorizer.DecisionAllow, "", nil
		}
	}
	asked := newQuestion(a)
	if slices.ContainsFunc(n.rules, asked.allowedBy) {
		return authorizer.DecisionAllow, "", nil
	}
	return authorizer.DecisionNoOpinion, "", nil
}

// MayChange implements auth.Coarse.
func (n *Nodes) MayChange(_ context.Context, u user.Info) (bool, string) {
	name, _ := NodeOf(u)
	return name != "", ""
}

// RulesFor implements authorizer.RuleResolver: what a node may do cannot be listed.
func (n *Nodes) RulesFor(_ context.Context, u user.Info, _ string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	if _, isNode := NodeOf(u); isNode {
		return nil, nil, true, errors.New("node authorizer does not support user rule resolution")
	}
	return nil, nil, false, nil
}

// A nodeRule decides about requests for one resource. It returns why a request is not allowed, or the constant allowed.
type nodeRule func(n *Nodes, node string, a authorizer.Attributes) string

const allowed = "\x00"

// nodeResources are the resources of which nodes may access only some objects; for all others their static rules decide.
var nodeResources = map[schema.GroupResource]nodeRule{
	{Resource: "secrets"}:                nodeReads(usesSecret),
	{Resource: "configmaps"}:             nodeReads(uses("configmap")),
	{Resource: "persistentvolumeclaims"}: nodeClaim,
	{Resource: "persistentvolumes"}:      nodeGets(usesVolume),
	{Resource: "serviceaccounts"}:        nodeServiceAccount,
	{Resource: "nodes"}:                  nodeItself,
	{Resource: "pods"}:                   nodePods,

	{Group: "resource.k8s.io", Resource: "resourceclaims"}:             nodeGets(uses("resourceclaim")),
	{Group: "resource.k8s.io", Resource: "resourceslices"}:             nodeSlices,
	{Group: "storage.k8s.io", Resource: "volumeattachments"}:           nodeGets(isAttachmentOf),
	{Group: "storage.k8s.io", Resource: "csinodes"}:                    nodeCSI,
	{Group: "coordination.k8s.io", Resource: "leases"}:                 nodeLease,
	{Group: "certificates.k8s.io", Resource: "podcertificaterequests"}: nodePodCertificates,
}

// A relation says whether an object is related to a node.
type relation func(v client.View, node, namespace, name string) bool

// related allows access to an object that is related to the node.
func (n *Nodes) related(node string, a authorizer.Attributes, holds relation) string {
	if a.GetName() == "" {
		return "No Object name found"
	}
	if !holds(n.Client.View(), node, a.GetNamespace(), a.GetName()) {
		return fmt.Sprintf("no relationship found between node '%s' and this object", node)
	}
	return allowed
}

// nodeReads allows to read single objects in namespaces.
func nodeReads(holds relation) nodeRule {
	return func(n *Nodes, node string, a authorizer.Attributes) string {
		switch {
		case !slices.Contains([]string{"get", "list", "watch"}, a.GetVerb()):
			return "can only read resources of this type"
		case a.GetSubresource() != "":
			return "cannot read subresource"
		case a.GetNamespace() == "":
			return "can only read namespaced object of this type"
		}
		return n.related(node, a, holds)
	}
}

// nodeGets allows to get single objects.
func nodeGets(holds relation) nodeRule {
	return func(n *Nodes, node string, a authorizer.Attributes) string {
		switch {
		case a.GetVerb() != "get":
			return "can only get individual resources of this type"
		case a.GetSubresource() != "":
			return "cannot get subresource"
		}
		return n.related(node, a, holds)
	}
}

func nodeClaim(n *Nodes, node string, a authorizer.Attributes) string {
	if a.GetSubresource() != "status" {
		return nodeGets(uses("claim"))(n, node, a)
	}
	if a.GetVerb() != "update" && a.GetVerb() != "patch" {
		return "can only get/update/patch this type"
	}
	return n.related(node, a, uses("claim"))
}

func nodeServiceAccount(n *Nodes, node string, a authorizer.Attributes) string {
	used := uses("serviceaccount")
	switch {
	case a.GetVerb() == "get" && a.GetSubresource() == "":
		return nodeReads(used)(n, node, a)
	case a.GetVerb() != "create" || a.GetName() == "":
		return "can only create tokens for individual service accounts"
	case a.GetSubresource() != "token":
		return "can only create token subresource of serviceaccount"
	}
	return n.related(node, a, used)
}

func nodeItself(_ *Nodes, node string, a authorizer.Attributes) string {
	switch a.GetSubresource() + " " + a.GetVerb() {
	case " create", " update", " patch", "status update", "status patch": // NodeRestriction limits them to the node itself
		return allowed
	case " get", " list", " watch":
		switch a.GetName() {
		case node:
			return allowed
		case "":
			return fmt.Sprintf("node '%s' cannot read all nodes, only its own Node object", node)
		}
		return fmt.Sprintf("node '%s' cannot read '%s', only its own Node object", node, a.GetName())
	}
	return ""
}

func nodePods(n *Nodes, node string, a authorizer.Attributes) string {
	switch a.GetSubresource() + " " + a.GetVerb() {
	case " get":
		return nodeGets(runs)(n, node, a)
	case " list", " watch":
		switch {
		case selects(a, "spec.nodeName", node):
			return allowed
		case a.GetName() != "":
			return n.related(node, a, runs)
		}
		return "can only list/watch pods with spec.nodeName field selector"
	case " create", " delete", "status update", "status patch", "eviction create": // NodeRestriction limits them to the node's pods
		return allowed
	}
	return ""
}

// selects says whether a request's field selector requires a field to have a value.
func selects(a authorizer.Attributes, field, value string) bool {
	requirements, _ := a.GetFieldSelector()
	for _, r := range requirements {
		if r.Field == field && r.Operator == selection.Equals && r.Value == value {
			return true
		}
	}
	return false
}

func nodeSlices(n *Nodes, node string, a authorizer.Attributes) string {
	if a.GetSubresource() != "" {
		return "cannot authorize ResourceSlice subresources"
	}
	switch a.GetVerb() {
	case "create": // NodeRestriction checks the node's name
		return allowed
	case "get", "update", "patch", "delete":
		return n.related(node, a, isSliceOf)
	case "watch", "list", "deletecollection":
		if selects(a, "spec.nodeName", node) {
			return allowed
		}
		return "can only list/watch/deletecollection resourceslices with nodeName field selector"
	}
	return "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection"
}

func nodeCSI(_ *Nodes, node string, a authorizer.Attributes) string {
	if a.GetSubresource() != "" {
		return "cannot authorize CSINode subresources"
	}
	switch a.GetVerb() {
	case "create": // NodeRestriction checks the name
		return allowed
	case "get", "update", "patch", "delete":
		if a.GetName() == node {
			return allowed
		}
		return "can only access CSINode with the same name as the requesting node"
	}
	return "can only get, create, update, patch, or delete a CSINode"
}

func nodeLease(_ *Nodes, node string, a authorizer.Attributes) string {
	if !slices.Contains([]string{"get", "create", "update", "patch", "delete"}, a.GetVerb()) {
		return "can only get, create, update, patch, or delete a node lease"
	}
	if a.GetNamespace() != corev1.NamespaceNodeLease {
		return fmt.Sprintf("can only access leases in the %q system namespace", corev1.NamespaceNodeLease)
	}
	if a.GetVerb() != "create" && a.GetName() != node { // NodeRestriction checks the name of a new one
		return "can only access node lease with the same name as the requesting node"
	}
	return allowed
}

func nodePodCertificates(n *Nodes, node string, a authorizer.Attributes) string {
	if a.GetSubresource() != "" {
		return "nodes may not access the status subresource of PodCertificateRequests"
	}
	switch a.GetVerb() {
	case "create": // NodeRestriction checks the rest
		return allowed
	case "get":
		return n.related(node, a, isCertificateRequestOf)
	case "list", "watch":
		if selects(a, "spec.nodeName", node) {
			return allowed
		}
		return "can only list/watch podcertificaterequests with nodeName field selector"
	}
	return fmt.Sprintf("nodes may not %s podcertificaterequests", a.GetVerb())
}
