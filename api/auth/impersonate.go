package auth

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
)

// Impersonate returns the user that a request acts as: its sender, or the user in its impersonation headers (`kubectl --as`) if the
// sender may impersonate everything in them. It removes these headers, so that they are not forwarded.
func Impersonate(authorizer Authorizer, header http.Header, sender user.Info) (user.Info, error) {
	name := header.Get(authenticationv1.ImpersonateUserHeader)
	groups := header[authenticationv1.ImpersonateGroupHeader]
	uid := header.Get(authenticationv1.ImpersonateUIDHeader)
	extra := impersonatedExtra(header)
	if name == "" {
		if len(groups) > 0 || uid != "" || len(extra) > 0 {
			return nil, apierrors.NewBadRequest("requested headers to impersonate without impersonating a user")
		}
		dropImpersonation(header)
		return sender, nil
	}
	subject := Attributes{Resource: "users", Name: name}
	become := &user.DefaultInfo{Name: name, UID: uid, Groups: slices.Clone(groups), Extra: extra}
	if namespace, account, err := serviceaccount.SplitUsername(name); err == nil {
		subject = Attributes{Resource: "serviceaccounts", Namespace: namespace, Name: account}
		if len(groups) == 0 {
			become.Groups = serviceaccount.MakeGroupNames(namespace)
		}
	}
	asked := []Attributes{subject}
	for _, group := range groups {
		asked = append(asked, Attributes{Resource: "groups", Name: group})
	}
	if uid != "" {
		asked = append(asked, Attributes{Group: authenticationv1.GroupName, Resource: "uids", Name: uid})
	}
	for key, values := range extra {
		for _, value := range values {
			asked = append(asked, Attributes{Group: authenticationv1.GroupName, Resource: "userextras", Subresource: key, Name: value})
		}
	}
	for _, a := range asked {
		a.User, a.Verb = sender, "impersonate"
		if err := Check(authorizer, a); err != nil {
			return nil, err
		}
	}
	either := user.AllAuthenticated
	if name == user.Anonymous {
		either = user.AllUnauthenticated
	}
	if !slices.Contains(become.Groups, user.AllUnauthenticated) && !slices.Contains(become.Groups, either) {
		become.Groups = append(become.Groups, either)
	}
	dropImpersonation(header)
	return become, nil
}

func dropImpersonation(header http.Header) {
	for key := range header {
		if strings.HasPrefix(key, "Impersonate-") {
			delete(header, key)
		}
	}
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
