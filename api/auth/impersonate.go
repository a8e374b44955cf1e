package auth

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// Impersonate returns the user that a request acts as: its sender, or the user in its impersonation headers (`kubectl --as`) if the
// sender may impersonate everything in them. It removes these headers, so that they are not forwarded.
func Impersonate(ctx context.Context, by Authorizer, header http.Header, sender user.Info) (user.Info, error) {
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
	subject := authorizer.AttributesRecord{Resource: "users", Name: name}
	become := &user.DefaultInfo{Name: name, UID: uid, Groups: slices.Clone(groups), Extra: extra}
	if namespace, account, err := serviceaccount.SplitUsername(name); err == nil {
		subject = authorizer.AttributesRecord{Resource: "serviceaccounts", Namespace: namespace, Name: account}
		if len(groups) == 0 {
			become.Groups = serviceaccount.MakeGroupNames(namespace)
		}
	}
	asked := []authorizer.AttributesRecord{subject}
	for _, group := range groups {
		asked = append(asked, authorizer.AttributesRecord{Resource: "groups", Name: group})
	}
	if uid != "" {
		asked = append(asked, authorizer.AttributesRecord{APIGroup: authenticationv1.GroupName, APIVersion: "v1", Resource: "uids", Name: uid})
	}
	for key, values := range extra {
		for _, value := range values {
			asked = append(asked, authorizer.AttributesRecord{APIGroup: authenticationv1.GroupName, APIVersion: "v1", Resource: "userextras", Subresource: key, Name: value})
		}
	}
	for i := range asked {
		a := &asked[i]
		a.User, a.Verb, a.ResourceRequest = sender, "impersonate", true
		if err := Check(ctx, by, a); err != nil {
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
