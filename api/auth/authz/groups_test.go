package authz

import (
	"context"
	"testing"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/kontiki/kontiki/api/auth"
)

func TestGroupsAuthorizer(t *testing.T) {
	master := &user.DefaultInfo{Name: "m", Groups: []string{user.SystemPrivilegedGroup}}
	someone := &user.DefaultInfo{Name: "s", Groups: []string{user.AllAuthenticated}}
	type record = authorizer.AttributesRecord
	for _, c := range []struct {
		a    record
		want authorizer.Decision
	}{
		{record{User: master, Verb: "delete", Resource: "nodes", ResourceRequest: true}, authorizer.DecisionAllow},
		{record{User: someone, Verb: "get", Resource: "pods", ResourceRequest: true, Path: "/api"}, authorizer.DecisionNoOpinion},
		{record{User: someone, Verb: "get", Path: "/apis/apps/v1"}, authorizer.DecisionAllow},
		{record{User: someone, Verb: "get", Path: "/apisx"}, authorizer.DecisionNoOpinion},
		{record{User: someone, Verb: "post", Path: "/version"}, authorizer.DecisionNoOpinion},
		{record{User: someone, Verb: "get", Path: "/metrics"}, authorizer.DecisionNoOpinion},
		{record{User: auth.Anonymous, Verb: "get", Path: "/version"}, authorizer.DecisionAllow},
		{record{User: auth.Anonymous, Verb: "get", Path: "/api"}, authorizer.DecisionNoOpinion},
		{record{User: auth.Anonymous, Verb: "create", Resource: "pods", ResourceRequest: true}, authorizer.DecisionNoOpinion},
		{record{User: someone, Verb: "impersonate", Resource: "users", Name: "m", ResourceRequest: true}, authorizer.DecisionNoOpinion},
	} {
		if got, reason, err := (Groups{}).Authorize(context.Background(), c.a); got != c.want || err != nil || (got != authorizer.DecisionAllow && reason == "") {
			t.Errorf("%s %s%s for %s: %v (%s)", c.a.Verb, c.a.Path, c.a.Resource, c.a.User.GetName(), got, reason)
		}
	}
}
