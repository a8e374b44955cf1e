package auth

import (
	"slices"

	"k8s.io/apiserver/pkg/authentication/user"
)

// TrustedParent says whether a trace may be continued that a user's request names, and its decision to record the request respected: only for
// administrators and monitoring, as in upstream's filter. The user is the one who sent the request, not the one whom it acts as.
func TrustedParent(u user.Info) bool {
	return u != nil && slices.ContainsFunc(u.GetGroups(), func(group string) bool {
		return group == user.SystemPrivilegedGroup || group == user.MonitoringGroup
	})
}
