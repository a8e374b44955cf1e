package rpc_test

import (
	"encoding/json"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"

	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
	"github.com/kontiki/kontiki/test/harness"
)

// TestWhoACallerIs: a caller with a client certificate is the same user as by REST, with the certificate as credential ID.
func TestWhoACallerIs(t *testing.T) {
	h := harness.New(t)
	h.Roles()
	response, err := kontikiv1.NewObjectsClient(h.GRPC("joe", "devs")).Create(deadline(t), &kontikiv1.CreateRequest{Object: &kontikiv1.Object{
		Kind:     &kontikiv1.Kind{Group: "authentication.k8s.io", Version: "v1", Kind: "SelfSubjectReview"},
		Encoding: kontikiv1.Encoding_ENCODING_JSON, Data: []byte(`{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}`),
	}})
	if err != nil {
		t.Fatal(err)
	}
	var review authenticationv1.SelfSubjectReview
	if err := json.Unmarshal(response.Object.Data, &review); err != nil {
		t.Fatal(err)
	}
	id := review.Status.UserInfo.Extra["authentication.kubernetes.io/credential-id"]
	if review.Status.UserInfo.Username != "joe" || len(id) != 1 || !strings.HasPrefix(id[0], "X509SHA256=") {
		t.Errorf("the caller is %+v", review.Status.UserInfo)
	}
}
