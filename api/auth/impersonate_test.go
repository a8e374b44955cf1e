package auth

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// may is an authorizer that allows what it lists: "VERB GROUP/RESOURCE/SUBRESOURCE NAMESPACE/NAME".
type may []string

func (m may) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	asked := fmt.Sprintf("%s %s/%s/%s %s/%s", a.GetVerb(), a.GetAPIGroup(), a.GetResource(), a.GetSubresource(), a.GetNamespace(), a.GetName())
	if a.GetUser().GetName() == "system:serviceaccount:ns:agent" && slices.Contains(m, asked) {
		return authorizer.DecisionAllow, "", nil
	}
	return authorizer.DecisionNoOpinion, "", nil
}

func TestImpersonation(t *testing.T) {
	const authn = "authentication.k8s.io"
	sender := &user.DefaultInfo{Name: "system:serviceaccount:ns:agent", Extra: map[string][]string{"authentication.kubernetes.io/node-name": {"w1"}}}
	list := &authorizer.AttributesRecord{Verb: "list", Resource: "pods", Namespace: "default", ResourceRequest: true}
	const onPods = " /pods/ default/"
	for _, c := range []struct {
		name       string
		headers    string // "Header: value" with the prefix Impersonate- left out, by semicolons
		may        may
		unknown    bool // the request is not known yet
		constraint string
		groups     string
		err        string
	}{
		{name: "nobody", headers: ""},
		{name: "without a user", headers: "Group: devs", err: "without impersonating a user"},
		{name: "without a right", headers: "User: jane", err: `cannot impersonate-on:user-info:list resource "pods"`},
		{name: "of old", headers: "User: jane", may: may{"impersonate /users/ /jane"}, groups: "system:authenticated"},
		{name: "of old, everything", headers: "User: jane; Group: system:masters; Uid: u; Extra-Scopes: x",
			may:    may{"impersonate /users/ /jane", "impersonate /groups/ /system:masters", "impersonate " + authn + "/uids/ /u", "impersonate " + authn + "/userextras/scopes /x"},
			groups: "system:masters system:authenticated"},
		{name: "of old, but for a group", headers: "User: jane; Group: devs", may: may{"impersonate /users/ /jane"}, err: "impersonate-on:user-info:list"},
		{name: "a user", headers: "User: jane; Group: devs", may: may{"impersonate-on:user-info:list" + onPods, "impersonate:user-info " + authn + "/users/ /jane", "impersonate:user-info " + authn + "/groups/ /devs"},
			constraint: "impersonate:user-info", groups: "devs system:authenticated"},
		{name: "a user, for other requests", headers: "User: jane", may: may{"impersonate-on:user-info:get" + onPods, "impersonate:user-info " + authn + "/users/ /jane"}, err: "impersonate-on:user-info:list"},
		{name: "a user of system:masters", headers: "User: jane; Group: system:masters",
			may: may{"impersonate-on:user-info:list" + onPods, "impersonate:user-info " + authn + "/users/ /jane", "impersonate:user-info " + authn + "/groups/ /system:masters"}, err: "impersonating the system:masters group is not allowed"},
		{name: "a user of many groups", headers: "User: jane; Group: a; Group: b; Group: c; Group: d",
			may:        may{"impersonate-on:user-info:list" + onPods, "impersonate:user-info " + authn + "/users/ /jane", "impersonate:user-info " + authn + "/groups/ /*"},
			constraint: "impersonate:user-info", groups: "a b c d system:authenticated"},
		{name: "a user with extra that has a bad key", headers: "User: jane; Extra-Scopes: x",
			may: may{"impersonate-on:user-info:list" + onPods, "impersonate:user-info " + authn + "/users/ /jane", "impersonate:user-info " + authn + "/userextras/scopes /x"}, err: "impersonating an invalid key in extra is not allowed"},
		{name: "an account", headers: "User: system:serviceaccount:a:b", may: may{"impersonate-on:serviceaccount:list" + onPods, "impersonate:serviceaccount " + authn + "/serviceaccounts/ a/b"},
			constraint: "impersonate:serviceaccount", groups: "system:serviceaccounts system:serviceaccounts:a system:authenticated"},
		{name: "an account with groups", headers: "User: system:serviceaccount:a:b; Group: devs", may: may{"impersonate-on:serviceaccount:list" + onPods, "impersonate:serviceaccount " + authn + "/serviceaccounts/ a/b"},
			err: "cannot impersonate resource"},
		{name: "its node", headers: "User: system:node:w1", may: may{"impersonate-on:associated-node:list" + onPods, "impersonate:associated-node " + authn + "/nodes/ /*"},
			constraint: "impersonate:associated-node", groups: "system:nodes system:authenticated"},
		{name: "another node", headers: "User: system:node:w2", may: may{"impersonate-on:associated-node:list" + onPods, "impersonate:associated-node " + authn + "/nodes/ /*"},
			err: "impersonate-on:arbitrary-node:list"},
		{name: "any node", headers: "User: system:node:w2", may: may{"impersonate-on:arbitrary-node:list" + onPods, "impersonate:arbitrary-node " + authn + "/nodes/ /w2"},
			constraint: "impersonate:arbitrary-node", groups: "system:nodes system:authenticated"},
		{name: "anonymous", headers: "User: system:anonymous", may: may{"impersonate /users/ /system:anonymous"}, groups: "system:unauthenticated"},
		{name: "before the request is known", headers: "User: jane", unknown: true, may: may{"impersonate:user-info " + authn + "/users/ /jane"}, constraint: "impersonate:user-info", groups: "system:authenticated"},
		{name: "before the request is known, of old", headers: "User: jane", unknown: true, may: may{"impersonate /users/ /jane", "impersonate:user-info " + authn + "/users/ /jane"}, groups: "system:authenticated"},
	} {
		t.Run(c.name, func(t *testing.T) {
			header := http.Header{"Other": {"stays"}}
			for _, one := range strings.Split(c.headers, "; ") {
				if name, value, ok := strings.Cut(one, ": "); ok {
					header.Add("Impersonate-"+name, value)
				}
			}
			request := list
			if c.unknown {
				request = nil
			}
			got, err := Impersonate(context.Background(), c.may, header, sender, request)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("%v, want %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if len(header) != 1 {
				t.Errorf("left: %v", header)
			}
			if c.headers == "" {
				if got != nil {
					t.Errorf("became %v", got)
				}
				return
			}
			if got.Constraint != c.constraint || strings.Join(got.User.GetGroups(), " ") != c.groups {
				t.Errorf("became %+v by %q", got.User, got.Constraint)
			}
			if c.unknown {
				err := got.On(context.Background(), c.may, sender, list)
				if refused := err != nil; refused != (c.constraint != "") {
					t.Errorf("a request as that user: %v", err)
				}
				if err := got.On(context.Background(), append(c.may, "impersonate-on:user-info:list"+onPods), sender, list); err != nil {
					t.Errorf("an allowed request as that user: %v", err)
				}
			}
		})
	}
}
