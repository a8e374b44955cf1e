package client

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
)

const (
	getMethod    = "/kontiki.v1.Objects/Get"
	createMethod = "/kontiki.v1.Objects/Create"
)

func configMap(name string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestReadsGoToTheNextMaster(t *testing.T) {
	for name, fault := range map[string]func(m *master){
		"dead before": func(m *master) { m.die() },
		"dies in the middle": func(m *master) {
			m.set(func(m *master) {
				m.fault = func(ctx context.Context, method string) error { m.die(); <-ctx.Done(); return ctx.Err() }
			})
		},
		"unavailable": func(m *master) {
			m.set(func(m *master) {
				m.fault = func(context.Context, string) error {
					return answer(codes.Unavailable, metav1.StatusReasonServiceUnavailable, "no quorum")
				}
			})
		},
		"stands still": func(m *master) {
			m.set(func(m *master) {
				m.fault = func(ctx context.Context, method string) error { <-ctx.Done(); return ctx.Err() }
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, s, masters := fakes(t, 3)
			var log bytes.Buffer
			c.log = slog.New(slog.NewTextHandler(&log, nil))
			s.put(t, "a", "1")
			fault(masters[0])
			got, err := Get[*corev1.ConfigMap](testContext(t), c, "default", "a")
			if err != nil || got.Data["v"] != "1" || got.Kind != "ConfigMap" || got.ResourceVersion != "1" {
				t.Fatalf("%+v %v", got, err)
			}
			if c.Endpoint() != "1.test:1" || masters[1].count(getMethod) != 1 || masters[2].count(getMethod) != 0 {
				t.Errorf("the client is at %s", c.Endpoint())
			}
			if !strings.Contains(log.String(), "left a master") || !strings.Contains(log.String(), "0.test:1") {
				t.Errorf("the log says %q", log.String())
			}
		})
	}
}

func TestASlowMasterThatLivesIsWaitedFor(t *testing.T) {
	// Longer than a busy machine delays the response to a check.
	c, s, masters := fakes(t, 2, func(c *Config) { c.silence, c.Patience = 700*time.Millisecond, 30*time.Second })
	s.put(t, "a", "1")
	masters[0].set(func(m *master) {
		m.fault = func(ctx context.Context, method string) error {
			if method != getMethod {
				return nil
			}
			for masters[0].count("/grpc.health.v1.Health/Check") < 3 { // it was asked, and answered
				select {
				case <-ctx.Done():
					return ctx.Err()
				case <-time.After(time.Millisecond):
				}
			}
			return nil
		}
	})
	if _, err := Get[*corev1.ConfigMap](testContext(t), c, "default", "a"); err != nil {
		t.Fatal(err)
	}
	if masters[0].count(getMethod) != 1 || masters[1].count(getMethod) != 0 {
		t.Error("the call went elsewhere")
	}
}

func TestWritesAreTriedAgainOnlyIfNothingWasChanged(t *testing.T) {
	t.Run("never sent", func(t *testing.T) {
		c, s, masters := fakes(t, 2)
		masters[0].die()
		if _, err := Create(testContext(t), c, configMap("a")); err != nil || s.writes != 1 {
			t.Fatal(s.writes, err)
		}
	})
	t.Run("refused", func(t *testing.T) {
		c, s, masters := fakes(t, 2)
		masters[0].set(func(m *master) {
			m.fault = func(context.Context, string) error {
				return answer(codes.Unavailable, metav1.StatusReasonServiceUnavailable, "no quorum")
			}
		})
		if _, err := Create(testContext(t), c, configMap("a")); err != nil || s.writes != 1 {
			t.Fatal(s.writes, err)
		}
	})
	again := protoadapt.MessageV1Of(&errdetails.RetryInfo{RetryDelay: durationpb.New(10 * time.Millisecond)})
	t.Run("busy", func(t *testing.T) {
		c, s, masters := fakes(t, 2)
		masters[0].set(func(m *master) {
			m.fault = func(context.Context, string) error {
				return answer(codes.ResourceExhausted, metav1.StatusReasonTooManyRequests, "try again later", again)
			}
		})
		if _, err := Create(testContext(t), c, configMap("a")); err != nil || s.writes != 1 {
			t.Fatal(s.writes, err)
		}
	})
	t.Run("busy, and without a word when to come back", func(t *testing.T) {
		c, s, masters := fakes(t, 2)
		masters[0].set(func(m *master) {
			m.fault = func(context.Context, string) error {
				return answer(codes.ResourceExhausted, metav1.StatusReasonTooManyRequests, "the stream was ended")
			}
		})
		if _, err := Create(testContext(t), c, configMap("a")); !errors.Is(err, ErrTooManyRequests) || s.writes != 0 {
			t.Fatal(s.writes, err)
		}
	})
	t.Run("all busy for a while", func(t *testing.T) {
		c, s, masters := fakes(t, 2)
		for _, m := range masters {
			m.set(func(m *master) {
				refused := false
				m.fault = func(context.Context, string) error {
					if refused {
						return nil
					}
					refused = true
					return answer(codes.ResourceExhausted, metav1.StatusReasonTooManyRequests, "try again later", again)
				}
			})
		}
		if _, err := Create(testContext(t), c, configMap("a")); err != nil || s.writes != 1 {
			t.Fatal(s.writes, err)
		}
	})
	for name, fault := range map[string]func(m *master) func(context.Context, string) error{
		"dies": func(m *master) func(context.Context, string) error {
			return func(ctx context.Context, method string) error { m.die(); <-ctx.Done(); return ctx.Err() }
		},
		"stands still": func(m *master) func(context.Context, string) error {
			return func(ctx context.Context, method string) error { <-ctx.Done(); return ctx.Err() }
		},
		"stops": func(*master) func(context.Context, string) error {
			// Without the API's own details an error does not guarantee that nothing was changed.
			return func(context.Context, string) error { return status.Error(codes.Unavailable, "the server is stopping") }
		},
		"times out": func(*master) func(context.Context, string) error {
			return func(context.Context, string) error {
				return answer(codes.DeadlineExceeded, metav1.StatusReasonTimeout, "the leader was lost")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, s, masters := fakes(t, 2)
			masters[0].set(func(m *master) { m.fault = fault(m) })
			_, err := Create(testContext(t), c, configMap("a"))
			if !errors.Is(err, ErrOutcomeUnknown) || errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "outcome is unknown") {
				t.Errorf("%v", err)
			}
			if s.writes != 0 || masters[1].count(createMethod) != 0 {
				t.Error("it was tried again")
			}
			if name != "times out" && c.Endpoint() != "1.test:1" { // that one is an answer of a master that lives
				t.Errorf("the client is still at %s", c.Endpoint())
			}
		})
	}
	t.Run("the caller ends it", func(t *testing.T) {
		c, _, masters := fakes(t, 2)
		ctx, cancel := context.WithCancel(testContext(t))
		masters[0].set(func(m *master) {
			m.fault = func(ctx context.Context, method string) error { cancel(); <-ctx.Done(); return ctx.Err() }
		})
		_, err := Create(ctx, c, configMap("a"))
		if !errors.Is(err, ErrOutcomeUnknown) || !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	})
}

func TestWithoutMastersCallsFailInTime(t *testing.T) {
	c, _, masters := fakes(t, 2)
	c.patience = 200 * time.Millisecond
	for _, m := range masters {
		m.die()
	}
	_, err := Create(testContext(t), c, configMap("a"))
	if !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrOutcomeUnknown) || !strings.Contains(err.Error(), ".test:1") {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := c.reach(testContext(t)); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "0.test:1") || !strings.Contains(err.Error(), "1.test:1") {
		t.Errorf("%v", err)
	}
	c.patience = time.Hour
	if _, err := Get[*corev1.ConfigMap](ctx, c, "default", "a"); !errors.Is(err, ErrUnavailable) {
		t.Errorf("%v", err)
	}
}

func TestErrorsHaveClassesAndDetails(t *testing.T) {
	c, s, _ := fakes(t, 1)
	s.put(t, "a", "1")
	var warnings []string
	c.warn = func(text string) { warnings = append(warnings, text) }
	ctx := testContext(t)
	_, err := Get[*corev1.ConfigMap](ctx, c, "default", "b")
	var failed *Error
	if !errors.Is(err, ErrNotFound) || !apierrors.IsNotFound(err) || status.Code(err) != codes.NotFound || !errors.As(err, &failed) ||
		failed.Status().Details.Causes[0].Field != "data" || failed.Method != getMethod {
		t.Errorf("%v", err)
	}
	if _, err = Create(ctx, c, configMap("a")); !errors.Is(err, ErrAlreadyExists) {
		t.Errorf("%v", err)
	}
	if _, err = Create(ctx, c, configMap("c")); err != nil || !slices.Equal(warnings, []string{"mind the gap"}) {
		t.Errorf("%v %v", warnings, err)
	}
	tx := c.Transaction()
	tx.Create(configMap("x"))
	tx.Check(RefOf[*corev1.ConfigMap]("default", "a"), "5")
	_, err = tx.Commit(ctx)
	var in *TransactionError
	if !errors.As(err, &in) || in.Operation != 1 || !errors.Is(err, ErrConflict) || !errors.As(err, &failed) || failed.ResourceVersion != "77" ||
		!strings.Contains(err.Error(), "check ConfigMap default/a") {
		t.Errorf("%v", err)
	}
}

func TestMistakesAreFoundBeforeAnythingIsSent(t *testing.T) {
	c, _, masters := fakes(t, 1)
	ctx := testContext(t)
	raw := &unstructured.Unstructured{}
	for name, err := range map[string]error{
		"option": second(Get[*corev1.ConfigMap](ctx, c, "default", "a", Force())),
		"kind":   second(Get[*unstructured.Unstructured](ctx, c, "default", "a")),
		"nil":    second(Create[*corev1.ConfigMap](ctx, c, nil)),
		"raw":    second(Create(ctx, c, raw)),
		"apply":  second(Apply[*corev1.ConfigMap](ctx, c, []byte("kind: ConfigMap"))),
		"twice":  second(Apply[*corev1.ConfigMap](ctx, c, []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {namespace: default, name: a}\ndata: {a: b}\ndata: {c: d}"))),
		"patch":  second(Patch[*corev1.ConfigMap](ctx, c, "default", "a", types.ApplyPatchType, nil)),
	} {
		if !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	tx := c.Transaction()
	tx.Create(configMap("a"))
	tx.Delete(RefOf[*unstructured.Unstructured]("default", "b"))
	var in *TransactionError
	if _, err := tx.Commit(ctx); !errors.As(err, &in) || in.Operation != 1 || !errors.Is(err, ErrInvalid) {
		t.Errorf("%v", err)
	}
	for range Watch[*corev1.ConfigMap](ctx, c, "default", DryRun()) {
		break
	}
	if len(masters[0].served) != 0 {
		t.Errorf("sent: %v", masters[0].served)
	}
}

func TestEndpoints(t *testing.T) {
	for text, want := range map[string]string{
		"10.0.0.1": "10.0.0.1:6443", "a:1": "a:1", "https://a": "a:6443", "https://a:1/": "a:1", "[::1]:5": "[::1]:5", "::1": "[::1]:6443",
		"http://a": "", "https://a/b": "", "": "", "a/b": "",
	} {
		got, err := parseEndpoint(text)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q %v", text, got, err)
		}
	}
	if _, err := New(Config{}); err == nil || !strings.Contains(err.Error(), "no endpoints") {
		t.Errorf("%v", err)
	}
}

func TestKubeconfig(t *testing.T) {
	const text = `
apiVersion: v1
kind: Config
current-context: one
contexts:
- {name: one, context: {cluster: here, user: me}}
- {name: two, context: {cluster: there, user: plugin}}
clusters:
- {name: here, cluster: {server: "https://10.0.0.1:6443", tls-server-name: kontiki, insecure-skip-tls-verify: true}}
- {name: there, cluster: {server: "https://10.0.0.2:6443"}}
users:
- {name: me, user: {tokenFile: token}}
- {name: plugin, user: {exec: {command: aws}}}
`
	dir := t.TempDir()
	path := filepath.Join(dir, "config")
	for name, content := range map[string]string{path: text, filepath.Join(dir, "token"): "sesame\n"} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := Config{Kubeconfig: path}
	if err := c.complete(); err != nil {
		t.Fatal(err)
	}
	token, err := c.TokenSource(t.Context())
	if err != nil || token != "sesame" || !slices.Equal(c.Endpoints, []string{"10.0.0.1:6443"}) || c.TLS.ServerName != "kontiki" || !c.TLS.InsecureSkipVerify {
		t.Errorf("%q %v %+v", token, err, c)
	}
	for wrong, want := range map[*Config]string{
		{KubeconfigData: []byte(text), Context: "two"}:                                               "plugin",
		{KubeconfigData: []byte(text), Context: "three"}:                                             `no context "three"`,
		{KubeconfigData: []byte("a: [")}:                                                             "yaml",
		{Kubeconfig: filepath.Join(dir, "none")}:                                                     "no such file",
		{Kubeconfig: path, KubeconfigData: []byte(text)}:                                             "set only one",
		{KubeconfigData: []byte("current-context: a\ncontexts: [{name: a, context: {cluster: b}}]")}: `no cluster "b"`,
	} {
		if err := wrong.complete(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, not %q", err, want)
		}
	}
}
