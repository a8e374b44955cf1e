package rest_test

import (
	"context"
	"net/http/httptest"
	"reflect"
	"testing"

	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/kontiki/kontiki/api/auth"
	"github.com/kontiki/kontiki/test/harness"
)

// noting is an authorizer that notes what it is asked first, and allows nothing.
type noting struct{ asked []authorizer.AttributesRecord }

func (n *noting) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	n.asked = append(n.asked, *a.(*authorizer.AttributesRecord))
	return authorizer.DecisionNoOpinion, "", nil
}

// The authorizer sees every request as upstream's would.
func TestRequestsAreAuthorizedAsUpstream(t *testing.T) {
	h := harness.New(t)
	factory := &request.RequestInfoFactory{APIPrefixes: sets.NewString("apis", "api"), GrouplessAPIPrefixes: sets.NewString("api")}
	front := h.AsAdmin()
	for _, path := range []string{
		"/", "/api", "/apis", "/apis/apps", "/apis/apps/v1", "/healthz", "/version/", "/openapi/v3/api/v1", "/metrics", "/nothing",
		"/api/v1/pods", "/api/v1/namespaces/n/pods", "/api/v1/namespaces/n/pods/", "/api/v1/namespaces/n/pods/p", "/api/v1/namespaces/n/pods/p?watch=1",
		"/api/v1/namespaces", "/api/v1/namespaces/n", "/api/v1/namespaces/n/status", "/api/v1/namespaces/n/finalize",
		"/api/v1/namespaces/n/pods/p/exec?command=x", "/api/v1/namespaces/n/pods/p/log", "/api/v1/namespaces/n/pods/https:p:80/proxy/a/b", "/api/v1/nodes/n/proxy/exec",
		"/api/v1/pods?watch", "/api/v1/pods?watch=true", "/api/v1/pods?watch=0", "/api/v1/pods?watch=False", "/api/v1/pods?watch=yes",
		"/api/v1/watch/pods", "/api/v1/watch/namespaces/n/pods", "/api/v1/watch/namespaces/n/pods/p", "/api/v1/watch/pods?labelSelector=a%3Db",
		"/api/v1/proxy/nodes/n", "/api/v1/proxy/namespaces/n/pods/p/x",
		"/api/v1/namespaces/n/pods?fieldSelector=metadata.name%3Dp", "/api/v1/namespaces/n/pods?watch=1&fieldSelector=metadata.name%3Dp,spec.nodeName%3Dw",
		"/api/v1/namespaces/n/pods?fieldSelector=metadata.name%3Da/b", "/api/v1/namespaces/n/pods?fieldSelector=metadata.name!%3Da", "/api/v1/namespaces?fieldSelector=metadata.name%3Dn",
		"/api/v1/pods?labelSelector=a%20in%20(b,c),d", "/api/v1/pods?labelSelector=%21%21", "/api/v1/pods?fieldSelector=%3D", "/api/v1/pods/?fieldSelector=spec.nodeName%3Dw",
		"/apis/apps/v1/namespaces/n/deployments/d/scale", "/apis/apps/v1/deployments", "/apis/no.such/v1/namespaces/n/things/t", "/apis/no.such/v1/namespaces/n",
	} {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} {
			r := httptest.NewRequest(method, path, nil)
			info, err := factory.NewRequestInfo(r)
			if err != nil {
				t.Fatal(err)
			}
			want := &authorizer.AttributesRecord{
				Verb: info.Verb, Namespace: info.Namespace, APIGroup: info.APIGroup, APIVersion: info.APIVersion, Resource: info.Resource,
				Subresource: info.Subresource, Name: info.Name, ResourceRequest: info.IsResourceRequest, Path: info.Path,
			}
			auth.Select(want, info.FieldSelector, info.LabelSelector)
			n := &noting{}
			h.REST.Authorizer = n
			front.ServeHTTP(httptest.NewRecorder(), r)
			if len(n.asked) != 1 {
				t.Errorf("%s %s: the authorizer was asked %d times", method, path, len(n.asked))
				continue
			}
			got := n.asked[0]
			if got.User.GetName() != "admin" {
				t.Errorf("%s %s: the user is %v", method, path, got.User)
			}
			got.User = nil
			if !reflect.DeepEqual(&got, want) {
				t.Errorf("%s %s:\n%+v, upstream\n%+v", method, path, got, want)
			}
		}
	}
}
