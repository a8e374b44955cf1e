package auth

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// Impersonated is a user whom a request's sender acts as.
type Impersonated struct {
	User user.Info
	// Constraint is the verb that allowed it, if it is one of constrained impersonation (KEP-5284); "" means the verb "impersonate".
	Constraint string
}

// Impersonate returns the user in a request's impersonation headers (`kubectl --as`), if its sender may act as that user; nil if there
// are no such headers. It removes them, so that they are not forwarded. As upstream, it first tries the modes of constrained
// impersonation, which also require a verb "impersonate-on:MODE:VERB" for the request itself, and then "impersonate".
//
// request is the request as it will be authorized. If it is not known yet, it is nil: then "impersonate" comes first (but for those who
// may do everything), and the caller must call On for the result with every request.
func Impersonate(ctx context.Context, by Authorizer, header http.Header, sender user.Info, request *authorizer.AttributesRecord) (*Impersonated, error) {
	wanted, err := impersonationHeaders(header)
	if wanted == nil || err != nil {
		return nil, err
	}
	var first error
	tried := modes
	if request == nil && !Privileged(sender) {
		tried = append([]mode{modes[len(modes)-1]}, modes[:len(modes)-1]...)
	}
	for _, m := range tried {
		if m.applies != nil && !m.applies(wanted, sender) {
			continue
		}
		if request != nil {
			err = on(ctx, by, sender, m.name, request)
		}
		if err == nil {
			var as user.Info
			if as, err = m.become(ctx, by, wanted, sender); err == nil {
				constraint := ""
				if m.name != "" {
					constraint = m.verb()
				}
				return &Impersonated{as, constraint}, nil
			}
		}
		if first == nil {
			first = err
		}
		err = nil
	}
	return nil, first
}

// On checks whether the sender may act as the user for one request, which a is with any user.
func (i *Impersonated) On(ctx context.Context, by Authorizer, sender user.Info, a *authorizer.AttributesRecord) error {
	if i == nil || i.Constraint == "" {
		return nil
	}
	return on(ctx, by, sender, strings.TrimPrefix(i.Constraint, "impersonate:"), a)
}

func on(ctx context.Context, by Authorizer, sender user.Info, mode string, request *authorizer.AttributesRecord) error {
	if mode == "" {
		return nil
	}
	a := *request
	a.User, a.Verb = sender, "impersonate-on:"+mode+":"+request.Verb
	return Check(ctx, by, &a)
}

// mode is a way of impersonation: the users for whom it is, and the verbs that it requires. The mode without a name is that of the verb
// "impersonate", which is for all users.
type mode struct {
	name    string
	applies func(wanted *user.DefaultInfo, sender user.Info) bool
}

var modes = []mode{
	{"associated-node", func(wanted *user.DefaultInfo, sender user.Info) bool {
		node, ok := nodeName(wanted.Name)
		on := sender.GetExtra()[serviceaccount.NodeNameKey]
		return ok && onlyName(wanted) && isServiceAccount(sender.GetName()) && len(on) == 1 && on[0] == node
	}},
	{"arbitrary-node", func(wanted *user.DefaultInfo, _ user.Info) bool {
		_, ok := nodeName(wanted.Name)
		return ok && onlyName(wanted)
	}},
	{"serviceaccount", func(wanted *user.DefaultInfo, _ user.Info) bool {
		return isServiceAccount(wanted.Name) && onlyName(wanted)
	}},
	{"user-info", func(wanted *user.DefaultInfo, _ user.Info) bool {
		_, isNode := nodeName(wanted.Name)
		return !isNode && !isServiceAccount(wanted.Name)
	}},
	{},
}

func onlyName(u *user.DefaultInfo) bool {
	return u.UID == "" && len(u.Groups) == 0 && len(u.Extra) == 0
}

func isServiceAccount(name string) bool {
	_, _, err := serviceaccount.SplitUsername(name)
	return err == nil
}

func nodeName(username string) (string, bool) {
	name, ok := strings.CutPrefix(username, "system:node:")
	return name, ok && len(validation.NameIsDNSSubdomain(name, false)) == 0
}

func (m *mode) verb() string {
	if m.name == "" {
		return "impersonate"
	}
	return "impersonate:" + m.name
}

// become checks every field of the wanted user, and returns the complete user.
func (m *mode) become(ctx context.Context, by Authorizer, wanted *user.DefaultInfo, sender user.Info) (user.Info, error) {
	become := *wanted
	group := "" // of users and groups, as resources
	if m.name != "" {
		group = authenticationv1.GroupName
	}
	ask := func(a authorizer.AttributesRecord) error {
		a.User, a.Verb, a.APIVersion, a.ResourceRequest = sender, m.verb(), "v1", true
		return Check(ctx, by, &a)
	}
	who := authorizer.AttributesRecord{APIGroup: group, Resource: "users", Name: wanted.Name}
	if node, ok := nodeName(wanted.Name); ok && m.name != "" {
		who.Resource, who.Name = "nodes", node
		if m.name == "associated-node" {
			who.Name = "*"
		}
		become.Groups = []string{user.NodesGroup}
	}
	if namespace, account, err := serviceaccount.SplitUsername(wanted.Name); err == nil {
		who.Resource, who.Namespace, who.Name = "serviceaccounts", namespace, account
		if len(wanted.Groups) == 0 {
			become.Groups = serviceaccount.MakeGroupNames(namespace)
		}
	}
	if err := ask(who); err != nil {
		return nil, err
	}
	if wanted.UID != "" {
		if err := ask(authorizer.AttributesRecord{APIGroup: authenticationv1.GroupName, Resource: "uids", Name: wanted.UID}); err != nil {
			return nil, err
		}
	}
	if err := m.checkGroups(group, wanted.Groups, sender, ask); err != nil {
		return nil, err
	}
	if err := m.checkExtra(wanted.Extra, sender, ask); err != nil {
		return nil, err
	}
	either := user.AllAuthenticated
	if become.Name == user.Anonymous {
		either = user.AllUnauthenticated
	}
	if !slices.Contains(become.Groups, user.AllUnauthenticated) && !slices.Contains(become.Groups, either) {
		become.Groups = append(slices.Clip(become.Groups), either)
	}
	return &become, nil
}

// manyChecks is from how many values on a constrained mode first asks for all of them at once, by the name "*".
const manyChecks = 4

func (m *mode) checkGroups(apiGroup string, groups []string, sender user.Info, ask func(authorizer.AttributesRecord) error) error {
	one := authorizer.AttributesRecord{APIGroup: apiGroup, Resource: "groups"}
	if m.name != "" {
		refuse := func(reason string) error {
			one.User, one.Verb, one.ResourceRequest = sender, m.verb(), true
			return Refused(&one, reason)
		}
		if slices.Contains(groups, "") {
			return refuse("impersonating the empty string group is not allowed")
		}
		if slices.Contains(groups, user.SystemPrivilegedGroup) {
			one.Name = user.SystemPrivilegedGroup
			return refuse("impersonating the system:masters group is not allowed")
		}
		if one.Name = "*"; len(groups) >= manyChecks && ask(one) == nil {
			return nil
		}
	}
	for _, one.Name = range groups {
		if err := ask(one); err != nil {
			return err
		}
	}
	return nil
}

func (m *mode) checkExtra(extra map[string][]string, sender user.Info, ask func(authorizer.AttributesRecord) error) error {
	one := authorizer.AttributesRecord{APIGroup: authenticationv1.GroupName, Resource: "userextras"}
	count := len(extra)
	if m.name != "" {
		if err := checkExtraKeys(extra); err != nil {
			one.User, one.Verb, one.ResourceRequest = sender, m.verb(), true
			return Refused(&one, err.Error())
		}
		values := 0
		for _, of := range extra {
			values += len(of)
		}
		one.Subresource, one.Name = "*", "*"
		if max(count, values) >= manyChecks && ask(one) == nil {
			return nil
		}
	}
	for key, values := range extra {
		one.Subresource = key
		for _, one.Name = range values {
			if err := ask(one); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkExtraKeys returns why extra fields cannot be impersonated in a constrained mode.
func checkExtraKeys(extra map[string][]string) error {
	for key, values := range extra {
		if key == "" {
			return fmt.Errorf("impersonating the empty string key in extra is not allowed")
		}
		if err := utilvalidation.IsDomainPrefixedPath(field.NewPath("extra", "key"), key).ToAggregate(); err != nil {
			return fmt.Errorf("impersonating an invalid key in extra is not allowed: %w", err)
		}
		if key != strings.ToLower(key) {
			return fmt.Errorf("impersonating a non-lowercase key in extra is not allowed: %q", key)
		}
		if len(values) == 0 {
			return fmt.Errorf("impersonating empty values in extra is not allowed")
		}
		if slices.Contains(values, "") {
			return fmt.Errorf("impersonating the empty string value in extra is not allowed")
		}
	}
	return nil
}

// impersonationHeaders returns the user in the headers as it is there, nil if there is none, and removes the headers.
func impersonationHeaders(header http.Header) (*user.DefaultInfo, error) {
	wanted := &user.DefaultInfo{
		Name: header.Get(authenticationv1.ImpersonateUserHeader), UID: header.Get(authenticationv1.ImpersonateUIDHeader),
		Groups: slices.Clone(header[authenticationv1.ImpersonateGroupHeader]), Extra: impersonatedExtra(header),
	}
	if wanted.Name == "" && !onlyName(wanted) {
		return nil, apierrors.NewBadRequest("requested headers to impersonate without impersonating a user")
	}
	for key := range header {
		if strings.HasPrefix(key, "Impersonate-") {
			delete(header, key)
		}
	}
	if wanted.Name == "" {
		return nil, nil
	}
	return wanted, nil
}

func impersonatedExtra(header http.Header) map[string][]string {
	extra := map[string][]string{}
	for key, values := range header {
		encoded, ok := strings.CutPrefix(key, authenticationv1.ImpersonateUserExtraHeaderPrefix)
		if !ok {
			continue
		}
		name := strings.ToLower(encoded)
		if decoded, err := url.PathUnescape(name); err == nil {
			name = decoded
		}
		extra[name] = append(extra[name], values...)
	}
	return extra
}
