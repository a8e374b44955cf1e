package review_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	clientrest "k8s.io/client-go/rest"

	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
	"github.com/kontiki/kontiki/test/harness"
)

func clientset(t *testing.T, config *clientrest.Config) *kubernetes.Clientset {
	t.Helper()
	set, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func TestAccessReviews(t *testing.T) {
	h := harness.New(t)
	h.Roles()
	admin, ctx := h.Clientset(), context.Background()
	subjects := []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: "joe"}}
	_, err := admin.RbacV1().RoleBindings("default").Create(ctx, &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "joe"}, Subjects: subjects,
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "system:aggregate-to-view"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	joe := clientset(t, h.Config("joe"))
	pods := func(verb, namespace string) *authorizationv1.ResourceAttributes {
		return &authorizationv1.ResourceAttributes{Verb: verb, Namespace: namespace, Resource: "pods"}
	}
	for _, c := range []struct {
		resource *authorizationv1.ResourceAttributes
		path     *authorizationv1.NonResourceAttributes
		want     bool
	}{
		{pods("list", "default"), nil, true}, {pods("create", "default"), nil, false}, {pods("list", "kube-system"), nil, false}, {pods("list", ""), nil, false},
		{nil, &authorizationv1.NonResourceAttributes{Verb: "get", Path: "/version"}, true}, {nil, &authorizationv1.NonResourceAttributes{Verb: "get", Path: "/metrics"}, false},
		{&authorizationv1.ResourceAttributes{Verb: "get", Namespace: "default", Resource: "pods", LabelSelector: &authorizationv1.LabelSelectorAttributes{RawSelector: "!!"}}, nil, true},
	} {
		self, err := joe.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{
			Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: c.resource, NonResourceAttributes: c.path}}, metav1.CreateOptions{})
		if err != nil || self.Status.Allowed != c.want || self.Status.Denied || c.want != (self.Status.Reason != "") {
			t.Errorf("self, %+v %+v: %v %+v", c.resource, c.path, err, self)
		}
		if c.resource != nil && c.resource.LabelSelector != nil && !strings.Contains(self.Status.EvaluationError, "labelSelector ignored due to parse error") {
			t.Errorf("self, %+v: %+v", c.resource, self.Status)
		}
		other, err := admin.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
			Spec: authorizationv1.SubjectAccessReviewSpec{User: "joe", Groups: []string{"system:authenticated"}, ResourceAttributes: c.resource, NonResourceAttributes: c.path}}, metav1.CreateOptions{})
		if err != nil || other.Status.Allowed != c.want {
			t.Errorf("of another, %+v %+v: %v %+v", c.resource, c.path, err, other.Status)
		}
	}
	local, err := admin.AuthorizationV1().LocalSubjectAccessReviews("default").Create(ctx, &authorizationv1.LocalSubjectAccessReview{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default"}, Spec: authorizationv1.SubjectAccessReviewSpec{User: "joe", ResourceAttributes: pods("list", "default")}}, metav1.CreateOptions{})
	if err != nil || !local.Status.Allowed {
		t.Errorf("local: %v %+v", err, local)
	}
	_, err = admin.AuthorizationV1().LocalSubjectAccessReviews("default").Create(ctx, &authorizationv1.LocalSubjectAccessReview{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default"}, Spec: authorizationv1.SubjectAccessReviewSpec{User: "joe", ResourceAttributes: pods("list", "kube-system")}}, metav1.CreateOptions{})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "must match metadata.namespace") {
		t.Errorf("local, of another namespace: %v", err)
	}
	_, err = admin.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{}, metav1.CreateOptions{})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "exactly one of nonResourceAttributes or resourceAttributes must be specified") {
		t.Errorf("an empty review: %v", err)
	}
	_, err = joe.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{User: "ann", ResourceAttributes: pods("get", "")}}, metav1.CreateOptions{})
	if !apierrors.IsForbidden(err) {
		t.Errorf("of another, without the right: %v", err)
	}
	if _, err := joe.CoreV1().RESTClient().Get().AbsPath("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews").DoRaw(ctx); err == nil {
		t.Error("reviews can be listed")
	}

	rules, err := joe.AuthorizationV1().SelfSubjectRulesReviews().Create(ctx, &authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: "default"}}, metav1.CreateOptions{})
	if err != nil || rules.Status.Incomplete || rules.Status.EvaluationError != "" {
		t.Fatalf("rules: %v %+v", err, rules)
	}
	if !slices.ContainsFunc(rules.Status.ResourceRules, func(r authorizationv1.ResourceRule) bool {
		return slices.Contains(r.Resources, "pods/log") && slices.Contains(r.Verbs, "watch")
	}) || !slices.ContainsFunc(rules.Status.NonResourceRules, func(r authorizationv1.NonResourceRule) bool { return slices.Contains(r.NonResourceURLs, "/openapi/*") }) {
		t.Errorf("rules: %+v", rules.Status)
	}
	_, err = joe.AuthorizationV1().SelfSubjectRulesReviews().Create(ctx, &authorizationv1.SelfSubjectRulesReview{}, metav1.CreateOptions{})
	if !apierrors.IsBadRequest(err) || !strings.Contains(err.Error(), "no namespace on request") {
		t.Errorf("rules without a namespace: %v", err)
	}
}

func TestWhoSomebodyIs(t *testing.T) {
	h := harness.New(t)
	h.Roles()
	admin, ctx := h.Clientset(), context.Background()
	self, err := clientset(t, h.Config("joe", "devs")).AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil || self.Status.UserInfo.Username != "joe" || !slices.Equal(self.Status.UserInfo.Groups, []string{"devs", "system:authenticated"}) || self.CreationTimestamp.IsZero() {
		t.Errorf("self: %v %+v", err, self)
	}
	if id := self.Status.UserInfo.Extra["authentication.kubernetes.io/credential-id"]; len(id) != 1 || !strings.HasPrefix(id[0], "X509SHA256=") {
		t.Errorf("self: the extra fields are %v", self.Status.UserInfo.Extra)
	}
	request := func(audiences ...string) string {
		t.Helper()
		token, err := admin.CoreV1().ServiceAccounts("default").CreateToken(ctx, "default", &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: audiences}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return token.Status.Token
	}
	own, vault := request(), request("vault", "other")
	for _, c := range []struct {
		name, token string
		audiences   []string
		want        []string // nil: not authenticated
	}{
		{"own", own, nil, []string{"https://kubernetes.default.svc.cluster.local"}},
		{"for others, to the API server", vault, nil, nil},
		{"for others", vault, []string{"third", "vault"}, []string{"vault"}},
		{"own, to others", own, []string{"vault"}, nil},
		{"no token", "nonsense", nil, nil},
	} {
		review, err := admin.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: c.token, Audiences: c.audiences}}, metav1.CreateOptions{})
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		status := review.Status
		if status.Authenticated != (c.want != nil) || !slices.Equal(status.Audiences, c.want) || (status.Error == "") != status.Authenticated {
			t.Errorf("%s: %+v", c.name, status)
		}
		if status.Authenticated && (status.User.Username != "system:serviceaccount:default:default" || len(status.User.Extra["authentication.kubernetes.io/credential-id"]) != 1 ||
			!slices.Equal(status.User.Groups, []string{"system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"})) {
			t.Errorf("%s: %+v", c.name, status.User)
		}
	}
	if _, err := admin.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{}, metav1.CreateOptions{}); !apierrors.IsBadRequest(err) {
		t.Errorf("no token: %v", err)
	}
}

func TestReviewsByGRPC(t *testing.T) {
	h := harness.New(t)
	h.Roles()
	objects := kontikiv1.NewObjectsClient(h.GRPC("joe"))
	kind := &kontikiv1.Kind{Group: "authorization.k8s.io", Version: "v1", Kind: "SelfSubjectAccessReview"}
	object := &kontikiv1.Object{Kind: kind, Encoding: kontikiv1.Encoding_ENCODING_JSON,
		Data: []byte(`{"spec":{"nonResourceAttributes":{"verb":"get","path":"/version"}}}`)}
	answer, err := objects.Create(context.Background(), &kontikiv1.CreateRequest{Object: object})
	if err != nil || !strings.Contains(string(answer.Object.Data), `"allowed":true`) {
		t.Errorf("%v %v", err, answer)
	}
	_, err = kontikiv1.NewObjectsClient(h.GRPC("admin", "system:masters")).Transact(context.Background(), &kontikiv1.TransactRequest{Operations: []*kontikiv1.Operation{{
		Operation: &kontikiv1.Operation_Create{Create: &kontikiv1.CreateRequest{Object: object}}}}})
	if err == nil || !strings.Contains(err.Error(), "cannot be a part of a transaction") {
		t.Errorf("in a transaction: %v", err)
	}
}
