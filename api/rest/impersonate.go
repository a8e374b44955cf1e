package rest

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/kontiki/kontiki/api/auth"
)

// impersonate makes the request somebody else's when its headers ask for it (`kubectl --as`) and its sender may
// impersonate everything that they name. false says that it was refused and answered.
func (c *call) impersonate() bool {
	header := c.r.Header
	name := header.Get(authenticationv1.ImpersonateUserHeader)
	groups := header[authenticationv1.ImpersonateGroupHeader]
	uid := header.Get(authenticationv1.ImpersonateUIDHeader)
	extra := impersonatedExtra(header)
	if name == "" {
		if len(groups) > 0 || uid != "" || len(extra) > 0 {
			writeError(c.w, c.r, apierrors.NewBadRequest("requested headers to impersonate without impersonating a user"))
			return false
		}
		return true
	}
	subject := auth.Attributes{Resource: "users", Name: name}
	become := &user.DefaultInfo{Name: name, UID: uid, Groups: slices.Clone(groups), Extra: extra}
	if namespace, account, err := serviceaccount.SplitUsername(name); err == nil {
		subject = auth.Attributes{Resource: "serviceaccounts", Namespace: namespace, Name: account}
		if len(groups) == 0 {
			become.Groups = serviceaccount.MakeGroupNames(namespace)
		}
	}
	asked := []auth.Attributes{subject}
	for _, group := range groups {
		asked = append(asked, auth.Attributes{Resource: "groups", Name: group})
	}
	if uid != "" {
		asked = append(asked, auth.Attributes{Group: authenticationv1.GroupName, Resource: "uids", Name: uid})
	}
	for key, values := range extra {
		for _, value := range values {
			asked = append(asked, auth.Attributes{Group: authenticationv1.GroupName, Resource: "userextras", Subresource: key, Name: value})
		}
	}
	for _, a := range asked {
		a.User, a.Verb = c.user, "impersonate"
		if !c.authorized(a) {
			return false
		}
	}
	either := user.AllAuthenticated
	if name == user.Anonymous {
		either = user.AllUnauthenticated
	}
	if !slices.Contains(become.Groups, user.AllUnauthenticated) && !slices.Contains(become.Groups, either) {
		become.Groups = append(become.Groups, either)
	}
	c.Log.Info("impersonation", "user", c.user.GetName(), "as", name, "groups", become.Groups)
	c.user = become
	for key := range header {
		if strings.HasPrefix(key, "Impersonate-") { // not to be passed on to agents
			delete(header, key)
		}
	}
	return true
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
