package flow

import (
	"testing"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	"k8s.io/apiserver/pkg/authentication/user"
)

// TestTheDefaultsSelectALevelForEverybody classifies requests by upstream's default configuration.
func TestTheDefaultsSelectALevelForEverybody(t *testing.T) {
	c := New(600)
	c.Configure(bootstrap.SuggestedFlowSchemas, bootstrap.SuggestedPriorityLevelConfigurations)
	who := func(name string, groups ...string) user.Info { return &user.DefaultInfo{Name: name, Groups: groups} }
	authenticated := user.AllAuthenticated
	account := func(namespace, name string) user.Info {
		return who("system:serviceaccount:"+namespace+":"+name, "system:serviceaccounts", "system:serviceaccounts:"+namespace, authenticated)
	}
	pods := Request{Verb: "get", Resource: "pods", Namespace: "ns"}
	lease := Request{Verb: "update", Group: "coordination.k8s.io", Resource: "leases", Namespace: "kube-system"}
	nodeStatus := Request{Verb: "patch", Resource: "nodes", Subresource: "status"}
	for _, x := range []struct {
		user   user.Info
		r      Request
		schema string
		level  string
		flow   string
	}{
		{who("admin", "system:masters", authenticated), pods, "exempt", "exempt", ""},
		{who("system:node:a", "system:nodes", authenticated), pods, "system-nodes", "system", "system:node:a"},
		{who("system:node:a", "system:nodes", authenticated), nodeStatus, "system-node-high", "node-high", "system:node:a"},
		{who("system:kube-controller-manager", authenticated), lease, "system-leader-election", "leader-election", "system:kube-controller-manager"},
		{who("system:kube-controller-manager", authenticated), pods, "kube-controller-manager", "workload-high", "ns"},
		{who("system:kube-scheduler", authenticated), pods, "kube-scheduler", "workload-high", "ns"},
		{account("kube-system", "x"), pods, "kube-system-service-accounts", "workload-high", "ns"},
		{account("ns", "x"), pods, "service-accounts", "workload-low", "system:serviceaccount:ns:x"},
		{who("joe", authenticated), pods, "global-default", "global-default", "joe"},
		{who("joe", authenticated), Request{Verb: "get", Path: "/metrics"}, "global-default", "global-default", "joe"},
		{who(user.Anonymous, user.AllUnauthenticated), Request{Verb: "get", Path: "/readyz"}, "probes", "exempt", ""},
		{who(user.Anonymous, user.AllUnauthenticated), pods, "global-default", "global-default", user.Anonymous},
		{who("nobody"), pods, "catch-all", "catch-all", "nobody"},
	} {
		x.r.User = x.user
		s := c.classify(&x.r)
		if flow := x.r.distinguisher(s.Spec.DistinguisherMethod); s.Name != x.schema || s.level.name != x.level || flow != x.flow {
			t.Errorf("%s %+v: schema %s, level %s, flow %q", x.user.GetName(), x.r, s.Name, s.level.name, flow)
		}
	}
}

func TestRulesMatchLikeUpstreams(t *testing.T) {
	joe := &user.DefaultInfo{Name: "joe", Groups: []string{"devs", user.AllAuthenticated}}
	robot := &user.DefaultInfo{Name: "system:serviceaccount:ns:robot"}
	group := func(name string) flowcontrolv1.Subject {
		return flowcontrolv1.Subject{Kind: flowcontrolv1.SubjectKindGroup, Group: &flowcontrolv1.GroupSubject{Name: name}}
	}
	named := func(name string) flowcontrolv1.Subject {
		return flowcontrolv1.Subject{Kind: flowcontrolv1.SubjectKindUser, User: &flowcontrolv1.UserSubject{Name: name}}
	}
	account := func(namespace, name string) flowcontrolv1.Subject {
		return flowcontrolv1.Subject{Kind: flowcontrolv1.SubjectKindServiceAccount, ServiceAccount: &flowcontrolv1.ServiceAccountSubject{Namespace: namespace, Name: name}}
	}
	for _, x := range []struct {
		subject flowcontrolv1.Subject
		user    user.Info
		want    bool
	}{
		{group("devs"), joe, true}, {group("ops"), joe, false}, {group("*"), robot, true},
		{named("joe"), joe, true}, {named("jo"), joe, false}, {named("*"), joe, true},
		{account("ns", "robot"), robot, true}, {account("ns", "robo"), robot, false}, {account("ns", "*"), robot, true},
		{account("n", "*"), robot, false}, {account("n", "robot"), robot, false}, {account("ns", "*"), joe, false},
		{flowcontrolv1.Subject{Kind: flowcontrolv1.SubjectKindUser}, joe, false}, {flowcontrolv1.Subject{Kind: "Other"}, joe, false},
	} {
		if got := matchesSubject([]flowcontrolv1.Subject{x.subject}, x.user); got != x.want {
			t.Errorf("%+v matches %s: %v", x.subject, x.user.GetName(), got)
		}
	}
	all := []string{"*"}
	rule := func(verbs, groups, resources, namespaces []string, cluster bool) *flowcontrolv1.ResourcePolicyRule {
		return &flowcontrolv1.ResourcePolicyRule{Verbs: verbs, APIGroups: groups, Resources: resources, Namespaces: namespaces, ClusterScope: cluster}
	}
	pod := Request{Verb: "get", Resource: "pods", Namespace: "ns"}
	log := Request{Verb: "get", Resource: "pods", Subresource: "log", Namespace: "ns"}
	node := Request{Verb: "get", Resource: "nodes"}
	for _, x := range []struct {
		rule *flowcontrolv1.ResourcePolicyRule
		r    Request
		want bool
	}{
		{rule(all, all, all, all, true), pod, true}, {rule(all, all, all, all, true), node, true},
		{rule(all, all, all, all, false), node, false}, {rule(all, all, all, nil, true), pod, false},
		{rule([]string{"list"}, all, all, all, true), pod, false}, {rule([]string{"list", "get"}, all, all, all, true), pod, true},
		{rule(all, []string{""}, all, all, true), pod, true}, {rule(all, []string{"apps"}, all, all, true), pod, false},
		{rule(all, all, []string{"pods"}, all, true), pod, true}, {rule(all, all, []string{"pods"}, all, true), log, false},
		{rule(all, all, []string{"pods/log"}, all, true), log, true}, {rule(all, all, []string{"pods/log"}, all, true), pod, false},
		{rule(all, all, []string{"pods/logs"}, all, true), log, false}, {rule(all, all, []string{"podslog"}, all, true), log, false},
		{rule(all, all, all, []string{"ns"}, true), pod, true}, {rule(all, all, all, []string{"other"}, true), pod, false},
	} {
		if got := x.r.matchesResource(x.rule); got != x.want {
			t.Errorf("%+v matches %+v: %v", x.rule, x.r, got)
		}
	}
	for _, x := range []struct {
		url, path string
		want      bool
	}{
		{"*", "/x", true}, {"/x", "/x", true}, {"/x", "/xy", false}, {"/x", "/x/y", true}, {"/x/*", "/x/y/z", true}, {"/x/*", "/x", false},
		{"/x/*", "/x/", true}, {"/", "/x", true}, {"/x/y", "/x", false},
	} {
		r := Request{Verb: "get", Path: x.path}
		if got := r.matchesPath(flowcontrolv1.NonResourcePolicyRule{Verbs: all, NonResourceURLs: []string{x.url}}); got != x.want {
			t.Errorf("%s matches %s: %v", x.url, x.path, got)
		}
	}
}

// TestPrecedenceDecides: the schema with the lowest precedence wins, then the one whose name comes first.
func TestPrecedenceDecides(t *testing.T) {
	named := func(name string, precedence int32) *flowcontrolv1.FlowSchema {
		s := schemaFor("one", precedence, "*")
		s.ObjectMeta = metav1.ObjectMeta{Name: name}
		return s
	}
	c := New(10)
	level := []*flowcontrolv1.PriorityLevelConfiguration{queuing("one", 1, 1, 1, 1)}
	r := as("joe")
	for want, schemas := range map[string][]*flowcontrolv1.FlowSchema{
		"a": {named("c", 20), named("b", 10), named("a", 10)},
		"z": {named("a", 20), named("z", 19)},
	} {
		c.Configure(schemas, level)
		if got := c.classify(&r).Name; got != want {
			t.Errorf("%s decides, want %s", got, want)
		}
	}
	// Levels that are not valid do not exist, nor do their schemas.
	broken := queuing("one", 1, 1, 1, 1)
	broken.Spec.Limited.LimitResponse.Queuing.HandSize = 2
	c.Configure([]*flowcontrolv1.FlowSchema{named("a", 10)}, []*flowcontrolv1.PriorityLevelConfiguration{broken})
	if got := c.classify(&r).Name; got != "catch-all" {
		t.Errorf("%s decides", got)
	}
}
