package apply

import (
	"bytes"
	"context"
	"io"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/transport"
)

// listener is an Out that calls a function when a word is first written to it.
type listener struct {
	mu    sync.Mutex
	text  bytes.Buffer
	calls map[string]func() // by the word
}

func (l *listener) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, err := l.text.Write(b)
	for word, call := range l.calls {
		if strings.Contains(l.text.String(), word) {
			delete(l.calls, word)
			call()
		}
	}
	return n, err
}

// waiting is the output while apply waits for the roll-out of web, which no controller carries out here.
const waiting = "deployment.apps/web: "

// rolled is a change of options: a release that is rolled back if it fails, whose output goes to a listener.
func rolled(timeout time.Duration, calls map[string]func()) func(*Options) {
	return func(o *Options) {
		o.Wait, o.Rollback, o.Prune, o.Selector, o.Timeout = true, true, true, "release=web", timeout
		o.Out = &listener{calls: calls}
	}
}

// interrupted applies a release that is interrupted while it waits for a roll-out.
func (l *lab) interrupted(manifests string, calls map[string]func(), change ...func(*Options)) error {
	ctx, interrupt := context.WithCancel(l.t.Context())
	defer interrupt()
	o := Options{Files: []string{"-"}, In: strings.NewReader(manifests), Err: &bytes.Buffer{},
		Namespace: "default", FieldManager: "tests", Config: l.Config("admin", "system:masters")}
	all := map[string]func(){waiting: interrupt}
	maps.Copy(all, calls)
	rolled(time.Minute, all)(&o)
	for _, c := range change {
		c(&o)
	}
	return Run(ctx, o)
}

// held returns a ConfigMap of the release that is deleted only once its finalizer is removed.
func (l *lab) held(name string) (release func()) {
	l.t.Helper()
	l.must(strings.NewReplacer("name: settings,", "name: "+name+", finalizers: [example.com/held],").Replace(settings))
	return func() {
		if _, err := l.set.CoreV1().ConfigMaps("default").Patch(context.Background(), name, "application/merge-patch+json",
			[]byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}); err != nil {
			l.t.Error(err)
		}
	}
}

func TestWhatIsStillGoingAwayIsMadeAgain(t *testing.T) {
	l := newLab(t)
	release := l.held("old")
	before := l.configMap("old")
	err := l.interrupted(web("v1"), map[string]func(){"configmap/old: waiting until it is gone": release})
	if err == nil || !strings.Contains(err.Error(), "the release was rolled back: ") {
		t.Fatal(err)
	}
	again := l.configMap("old")
	if again == nil || again.UID == before.UID || again.Data["colour"] != "green" || again.DeletionTimestamp != nil || len(again.Finalizers) != 1 {
		t.Errorf("%+v", again)
	}
}

func TestWhatIsNotUndoneIsNamed(t *testing.T) {
	l := newLab(t)
	l.held("stuck")
	l.must(strings.Replace(settings, "settings", "others", 1) + "---" + strings.Replace(settings, "settings", "taken", 1))
	configMaps := l.set.CoreV1().ConfigMaps("default")
	meddle := func() {
		if err := configMaps.Delete(context.Background(), "taken", metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
		others := l.configMap("others")
		if err := configMaps.Delete(context.Background(), "others", metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
		others.ObjectMeta = metav1.ObjectMeta{Name: "others"}
		if _, err := configMaps.Create(context.Background(), others, metav1.CreateOptions{}); err != nil {
			t.Error(err)
		}
	}
	red := strings.Replace(settings, "green", "red", 1)
	_, err := l.apply(strings.Replace(red, "settings", "others", 1)+"---"+strings.Replace(red, "settings", "taken", 1)+web("v1"), rolled(time.Second, map[string]func(){waiting: meddle}))
	if err == nil {
		t.Fatal("it did not fail")
	}
	says(t, err.Error(), "rolled back except for ", "configmap/stuck, which is still going away", "configmap/taken, which somebody else deleted", "configmap/others, which somebody else made anew")
	if d, err := l.set.AppsV1().Deployments("default").List(t.Context(), metav1.ListOptions{}); err != nil || len(d.Items) > 0 {
		t.Errorf("the rest is not undone: %v, %v", d, err)
	}
}

func TestAnInterruptUndoes(t *testing.T) {
	l := newLab(t)
	l.must(settings)
	if err := l.interrupted(strings.Replace(settings, "green", "red", 1)+web("v1"), nil); err == nil || !strings.Contains(err.Error(), "the release was rolled back: ") {
		t.Fatal(err)
	}
	if got := l.configMap("settings").Data["colour"]; got != "green" {
		t.Errorf("the colour is %q", got)
	}
}

// before is a change of options: it calls a function once, between the read of the objects and the transaction.
func (l *lab) before(happens func()) func(*Options) {
	var once sync.Once
	config := l.Config("admin", "system:masters")
	config.WrapTransport = transport.Wrappers(config.WrapTransport, func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			if r.URL.Path == transactionsPath {
				once.Do(happens)
			}
			return next.RoundTrip(r)
		})
	})
	return func(o *Options) { o.Config = rest.CopyConfig(config) }
}

func TestWhatChangesBeforeItIsPrunedComesBackAsItWas(t *testing.T) {
	l := newLab(t)
	l.must(strings.Replace(settings, "settings", "old", 1))
	err := l.interrupted(web("v1"), nil, l.before(func() {
		old := l.configMap("old")
		old.Data["colour"] = "blue"
		if _, err := l.set.CoreV1().ConfigMaps("default").Update(context.Background(), old, metav1.UpdateOptions{}); err != nil {
			t.Error(err)
		}
	}))
	if err == nil || !strings.Contains(err.Error(), "the release was rolled back: ") {
		t.Fatal(err)
	}
	if old := l.configMap("old"); old == nil || old.Data["colour"] != "blue" {
		t.Errorf("%+v", old)
	}
}

func TestWhatSomebodyMakesBeforeItIsAppliedIsNotDeleted(t *testing.T) {
	l := newLab(t)
	err := l.interrupted(settings+web("v1"), nil, l.before(func() {
		theirs := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "settings"}, Data: map[string]string{"theirs": "kept"}}
		if _, err := l.set.CoreV1().ConfigMaps("default").Create(context.Background(), theirs, metav1.CreateOptions{}); err != nil {
			t.Error(err)
		}
	}))
	if err == nil || !strings.Contains(err.Error(), "rolled back except for configmap/settings, which somebody else made at the same time: ") {
		t.Fatal(err)
	}
	if m := l.configMap("settings"); m == nil || m.Data["theirs"] != "kept" {
		t.Errorf("%+v", m)
	}
}

func TestWhatWasPrunedAndUndoneIsPrunedAgain(t *testing.T) {
	l := newLab(t)
	l.must(strings.Replace(settings, "settings", "old", 1))
	if err := l.interrupted(web("v1"), nil); err == nil || l.configMap("old") == nil {
		t.Fatal(err)
	}
	if out := l.must(settings, func(o *Options) { o.Prune, o.Selector = true, "release=web" }); !strings.Contains(out, "configmap/old pruned") {
		t.Error(out)
	}
}

// TestAnAnswerThatDoesNotComeIsNoFailure: the connection breaks after the release was stored.
func TestAnAnswerThatDoesNotComeIsNoFailure(t *testing.T) {
	l := newLab(t)
	config := l.Config("admin", "system:masters")
	config.WrapTransport = transport.Wrappers(config.WrapTransport, func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			response, err := next.RoundTrip(r)
			if err == nil && r.URL.Path == transactionsPath {
				response.Body.Close()
				return nil, io.ErrUnexpectedEOF
			}
			return response, err
		})
	})
	out, err := l.apply(settings, func(o *Options) { o.Config = config })
	if err == nil || !strings.Contains(err.Error(), "the outcome is unknown") || out != "" {
		t.Errorf("%v\n%s", err, out)
	}
	if l.configMap("settings") == nil {
		t.Error("the release is not there")
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
