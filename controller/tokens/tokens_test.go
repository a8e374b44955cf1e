package tokens_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/controller/tokens"
	"github.com/kontiki/kontiki/test/harness"
)

// cas are CAs that change only when the test changes them.
type cas struct {
	mu      sync.Mutex
	bundle  string
	changed chan struct{}
}

func (c *cas) get() ([]byte, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return []byte(c.bundle), c.changed
}

func (c *cas) set(bundle string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bundle = bundle
	close(c.changed)
	c.changed = make(chan struct{})
}

func secretFor(account string) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "t", Annotations: map[string]string{corev1.ServiceAccountNameKey: account}},
		Type: corev1.SecretTypeServiceAccountToken}
}

func await(t *testing.T, h *harness.Harness, holds func(*corev1.Secret) bool) *corev1.Secret {
	t.Helper()
	var found *corev1.Secret
	controllertest.AwaitView(t, h.Client, []client.Object{&corev1.Secret{}}, func(v client.View) string {
		s, ok := client.Get[*corev1.Secret](v, "default", "t")
		if !ok || !holds(s) {
			return fmt.Sprintf("the secret is %+v", s)
		}
		found = s
		return ""
	})
	return found
}

func TestTokenSecretsAreFilledIn(t *testing.T) {
	h := harness.New(t)
	ca := &cas{bundle: "one", changed: make(chan struct{})}
	controllertest.Run(t, h.Client, tokens.New(h.Client, h.Tokens, ca.get))
	controllertest.Create(t, h.Client, secretFor("default"))
	filled := await(t, h, func(s *corev1.Secret) bool { return len(s.Data) == 3 })
	account, _ := client.Get[*corev1.ServiceAccount](h.Client.View(), "default", "default")
	if string(filled.Data["ca.crt"]) != "one" || string(filled.Data["namespace"]) != "default" || filled.Annotations[corev1.ServiceAccountUIDKey] != string(account.UID) {
		t.Errorf("filled in: %q, %v", filled.Data, filled.Annotations)
	}
	token := string(filled.Data["token"])
	who, _, err := h.Tokens.Check(token, nil)
	if err != nil || who.GetName() != "system:serviceaccount:default:default" || who.GetUID() != string(account.UID) {
		t.Fatalf("the token is of %v: %v", who, err)
	}

	ca.set("two")
	filled = await(t, h, func(s *corev1.Secret) bool { return string(s.Data["ca.crt"]) == "two" })
	if string(filled.Data["token"]) != token {
		t.Error("new CAs changed the token")
	}

	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Tokens.Use(key); err != nil {
		t.Fatal(err)
	}
	filled = await(t, h, func(s *corev1.Secret) bool { return string(s.Data["token"]) != token })
	if _, _, err := h.Tokens.Check(string(filled.Data["token"]), nil); err != nil {
		t.Errorf("the token under the new key: %v", err)
	}

	// A token that is marked as invalid is not accepted, and is not replaced.
	marked := filled.DeepCopy()
	marked.Labels = map[string]string{"kubernetes.io/legacy-token-invalid-since": "2026-01-01"}
	if marked, err = client.Update(context.Background(), h.Client, marked); err != nil {
		t.Fatal(err)
	}
	if _, _, err := h.Tokens.Check(string(marked.Data["token"]), nil); err == nil {
		t.Error("a token that is marked as invalid holds")
	}
}

func TestTokenSecretsEndWithTheirAccount(t *testing.T) {
	h := harness.New(t)
	ca := &cas{bundle: "one", changed: make(chan struct{})}
	controllertest.Run(t, h.Client, tokens.New(h.Client, h.Tokens, ca.get))
	account := controllertest.Create(t, h.Client, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "robot"},
		Secrets: []corev1.ObjectReference{{Name: "t"}, {Name: "other"}}})
	secret := controllertest.Create(t, h.Client, secretFor("robot"))
	token := string(await(t, h, func(s *corev1.Secret) bool { return len(s.Data) == 3 }).Data["token"])
	if err := h.Client.Delete(context.Background(), secret); err != nil {
		t.Fatal(err)
	}
	if _, _, err := h.Tokens.Check(token, nil); err == nil {
		t.Error("the token holds without its secret")
	}
	controllertest.AwaitView(t, h.Client, []client.Object{&corev1.ServiceAccount{}}, func(v client.View) string {
		sa, _ := client.Get[*corev1.ServiceAccount](v, "default", "robot")
		if len(sa.Secrets) != 1 || sa.Secrets[0].Name != "other" {
			return fmt.Sprint("its secrets are ", sa.Secrets)
		}
		return ""
	})
	controllertest.Create(t, h.Client, secretFor("robot"))
	await(t, h, func(s *corev1.Secret) bool { return len(s.Data) == 3 })
	if err := h.Client.Delete(context.Background(), account); err != nil {
		t.Fatal(err)
	}
	controllertest.AwaitView(t, h.Client, []client.Object{&corev1.Secret{}}, func(v client.View) string {
		if _, ok := client.Get[*corev1.Secret](v, "default", "t"); ok {
			return "the secret outlives its account"
		}
		return ""
	})
}

// TestTokensCostWhatTheyAre: a change of one Secret or account costs nothing for the others.
func TestTokensCostWhatTheyAre(t *testing.T) {
	h, scans := harness.NewScanned(t, "secrets", "serviceaccounts")
	ca := &cas{bundle: "one", changed: make(chan struct{})}
	const others = 50
	for i := range others {
		controllertest.Create(t, h.Client, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint("other", i)}})
		controllertest.Create(t, h.Client, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint("other", i)}})
	}
	controllertest.Run(t, h.Client, tokens.New(h.Client, h.Tokens, ca.get))
	round := func() {
		account := controllertest.Create(t, h.Client, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "robot"}, Secrets: []corev1.ObjectReference{{Name: "t"}}})
		secret := controllertest.Create(t, h.Client, secretFor("robot"))
		await(t, h, func(s *corev1.Secret) bool { return len(s.Data) == 3 })
		if err := h.Client.Delete(context.Background(), secret); err != nil {
			t.Fatal(err)
		}
		controllertest.Await(t, h.Client, "default", "robot", "its list to be empty", func(sa *corev1.ServiceAccount) bool { return len(sa.Secrets) == 0 })
		controllertest.Create(t, h.Client, secretFor("robot"))
		if err := h.Client.Delete(context.Background(), account); err != nil {
			t.Fatal(err)
		}
		controllertest.AwaitGone[*corev1.Secret](t, h.Client, "default", "t")
	}
	round() // the indexes are made
	scans.Reset()
	round()
	if n := scans.Visited(); n > 0 {
		t.Errorf("%d objects were visited", n)
	}
}
