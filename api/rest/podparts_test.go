package rest_test

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/test/harness"
)

// A pod verifies its token for another audience with the issuer's keys from the API.
func TestAServiceAccountDiscoversItsIssuer(t *testing.T) {
	h := harness.New(t)
	h.Roles()
	set := h.Clientset()
	config := h.Config("unused")
	config.CertData, config.KeyData, config.BearerToken = nil, nil, issueToken(t, set)
	fetch := func(path, contentType string, into any) {
		t.Helper()
		code, body := raw(t, config, "GET", path, "", nil)
		if code != http.StatusOK {
			t.Fatalf("%s: %d %s", path, code, body)
		}
		if err := json.Unmarshal([]byte(body), into); err != nil {
			t.Fatalf("%s: %v in %s", path, err, body)
		}
	}
	var document struct {
		Issuer     string   `json:"issuer"`
		Keys       string   `json:"jwks_uri"`
		Algorithms []string `json:"id_token_signing_alg_values_supported"`
		Types      []string `json:"response_types_supported"`
		Subjects   []string `json:"subject_types_supported"`
	}
	fetch("/.well-known/openid-configuration", "application/json", &document)
	path, ok := strings.CutPrefix(document.Keys, document.Issuer)
	if !ok || len(document.Types) == 0 || len(document.Subjects) == 0 {
		t.Fatalf("the document is %+v", document)
	}
	var keys jose.JSONWebKeySet
	fetch(path, "application/jwk-set+json", &keys)
	issued, err := set.CoreV1().ServiceAccounts("default").CreateToken(context.Background(), "default",
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: []string{"oidc-discovery-test"}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var algorithms []jose.SignatureAlgorithm
	for _, a := range document.Algorithms {
		algorithms = append(algorithms, jose.SignatureAlgorithm(a))
	}
	token, err := jwt.ParseSigned(issued.Status.Token, algorithms)
	if err != nil {
		t.Fatal(err)
	}
	found := keys.Key(token.Headers[0].KeyID)
	if len(found) != 1 {
		t.Fatalf("keys of %q: %d", token.Headers[0].KeyID, len(found))
	}
	var claims jwt.Claims
	if err := token.Claims(found[0].Key, &claims); err != nil || claims.Issuer != document.Issuer || !slices.Contains(claims.Audience, "oidc-discovery-test") {
		t.Errorf("claims %+v, %v", claims, err)
	}
	config.BearerToken = ""
	if code, body := raw(t, config, "GET", "/openid/v1/jwks", "", nil); code != http.StatusUnauthorized {
		t.Errorf("without a token: %d %s", code, body)
	}
}

func TestEphemeralContainersAreAddedAndNothingElse(t *testing.T) {
	h := harness.New(t)
	pods := h.Clientset().CoreV1().Pods("default")
	ctx := context.Background()
	if _, err := pods.Create(ctx, pod("p"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	// As kubectl debug does.
	patch := `{"metadata":{"labels":{"not":"me"}},"spec":{"terminationGracePeriodSeconds":1,"ephemeralContainers":[{"name":"debugger","image":"i","targetContainerName":"c","command":["sh"]}]}}`
	got, err := pods.Patch(ctx, "p", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "ephemeralcontainers")
	if err != nil || len(got.Spec.EphemeralContainers) != 1 || got.Spec.EphemeralContainers[0].TerminationMessagePath == "" || got.Labels["not"] != "" || *got.Spec.TerminationGracePeriodSeconds != 30 {
		t.Fatalf("%+v, %v", got, err)
	}
	got.Spec.EphemeralContainers = append(got.Spec.EphemeralContainers, corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "second", Image: "i"}})
	if got, err = pods.UpdateEphemeralContainers(ctx, "p", got, metav1.UpdateOptions{}); err != nil || len(got.Spec.EphemeralContainers) != 2 || got.Generation < 3 {
		t.Fatalf("%+v, %v", got, err)
	}
	for name, change := range map[string]func(*corev1.Pod){
		"removed": func(p *corev1.Pod) { p.Spec.EphemeralContainers = p.Spec.EphemeralContainers[1:] },
		"changed": func(p *corev1.Pod) { p.Spec.EphemeralContainers[0].Image = "other" },
		"twice": func(p *corev1.Pod) {
			p.Spec.EphemeralContainers = append(p.Spec.EphemeralContainers, p.Spec.EphemeralContainers[0])
		},
		"resources": func(p *corev1.Pod) {
			p.Spec.EphemeralContainers = append(p.Spec.EphemeralContainers, corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon{
				Name: "third", Image: "i", Ports: []corev1.ContainerPort{{ContainerPort: 80}}}})
		},
	} {
		bad := got.DeepCopy()
		change(bad)
		if _, err := pods.UpdateEphemeralContainers(ctx, "p", bad, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	other := got.DeepCopy()
	other.Spec.EphemeralContainers = nil
	if _, err := pods.Update(ctx, other, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("an update of the pod itself took them away: %v", err)
	}
}
