package top

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/kontiki/kontiki/test/await"
)

// logsAPI serves pods and their logs. What is sent to events goes to the watch.
type logsAPI struct {
	pods   []corev1.Pod
	events chan metav1.WatchEvent
	logs   map[string]string // by pod; those that end with "..." stay open

	mu    sync.Mutex
	asked []string // the queries of lists and logs
}

func (l *logsAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	l.asked = append(l.asked, r.URL.Path+"?"+r.URL.RawQuery)
	l.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	const list = "/api/v1/namespaces/default/pods"
	switch name := strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, list+"/"), "/log"); {
	case r.URL.Path == list && r.URL.Query().Get("sendInitialEvents") != "": // it lists and then watches
		w.WriteHeader(http.StatusUnprocessableEntity)
		fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","code":422,"reason":"Invalid"}`)
	case r.URL.Path == list && r.URL.Query().Get("watch") != "":
		w.WriteHeader(http.StatusOK)
		for {
			w.(http.Flusher).Flush()
			select {
			case event := <-l.events:
				json.NewEncoder(w).Encode(event)
			case <-r.Context().Done():
				return
			}
		}
	case r.URL.Path == list:
		json.NewEncoder(w).Encode(corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, ListMeta: metav1.ListMeta{ResourceVersion: "7"}, Items: l.pods})
	case l.logs[name] == "":
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"its log may not be read","code":403,"reason":"Forbidden"}`)
	default:
		text, open := strings.CutSuffix(l.logs[name], "...")
		fmt.Fprint(w, text)
		w.(http.Flusher).Flush()
		if open {
			<-r.Context().Done()
		}
	}
}

// running is a pod whose container runs, or waits if run is empty.
func running(name, run string) corev1.Pod {
	p := corev1.Pod{TypeMeta: metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"}, ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name), ResourceVersion: "7"},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main"}, {Name: "side"}}}}
	status := corev1.ContainerStatus{Name: "main", ContainerID: run, State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{}}}
	if run != "" {
		status.State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	}
	p.Status.ContainerStatuses = []corev1.ContainerStatus{status}
	return p
}

// merge runs a merger of the API's pods until the test ends, and returns a function that waits for lines.
func merge(t *testing.T, api *logsAPI) (s *stream, shows func(lines ...string)) {
	t.Helper()
	server := httptest.NewServer(api)
	t.Cleanup(server.Close)
	set, err := kubernetes.NewForConfig(&rest.Config{Host: server.URL, QPS: -1, ContentConfig: rest.ContentConfig{ContentType: "application/json"}})
	if err != nil {
		t.Fatal(err)
	}
	s = &stream{changed: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		(&merger{set: set, namespace: "default", selector: "app=web", prefix: "web-", stream: s}).run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	text := &Text{}
	return s, func(lines ...string) {
		t.Helper()
		await.That(t, strings.Join(lines, ", "), func() error {
			s.take(text)
			for _, line := range lines {
				if !slices.Contains(text.lines, line) {
					return errors.New(strings.Join(text.lines, "\n"))
				}
			}
			return nil
		})
	}
}

func watched(t *testing.T, kind string, p corev1.Pod) metav1.WatchEvent {
	t.Helper()
	raw, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	e := metav1.WatchEvent{Type: kind}
	e.Object.Raw = raw
	return e
}

// TestLogsOfAWorkloadAreMerged: of pods that run at first, that start later and that come later; a pod whose log cannot be read says so.
func TestLogsOfAWorkloadAreMerged(t *testing.T) {
	api := &logsAPI{
		pods:   []corev1.Pod{running("web-a", "run-1"), running("web-b", ""), running("web-c", "run-1")},
		events: make(chan metav1.WatchEvent),
		logs: map[string]string{
			"web-a": "2026-01-01T12:00:00.1Z first\n2026-01-01T12:00:00.3Z \x1b[2Jthird\nwithout a time\n...",
			"web-b": "2026-01-01T12:00:01Z late\n",
			"web-d": "2026-01-01T12:00:02Z new\n",
			"web-e": "2026-01-01T12:00:03Z last\n",
		},
	}
	_, shows := merge(t, api)
	shows("a  first", "a  third", "a  without a time", "c  its log may not be read")
	api.events <- watched(t, "MODIFIED", running("web-b", "run-1"))
	shows("b  late")
	api.events <- watched(t, "ADDED", running("web-d", "run-1"))
	shows("d  new")
	api.events <- watched(t, "MODIFIED", running("web-b", "run-1")) // nothing new: it is not read again
	api.events <- watched(t, "ADDED", running("web-e", "run-1"))
	shows("e  last")
	api.mu.Lock()
	defer api.mu.Unlock()
	reads := map[string]int{}
	for _, asked := range api.asked {
		path, query, _ := strings.Cut(asked, "?")
		if !strings.HasSuffix(path, "/log") {
			if !strings.Contains(query, "labelSelector=app%3Dweb") {
				t.Errorf("%s has no selector", asked)
			}
			continue
		}
		reads[path]++
		for _, part := range []string{"container=main", "follow=true", "timestamps=true", fmt.Sprint("tailLines=", mergedTail)} {
			if !strings.Contains(query, part) {
				t.Errorf("%s lacks %s", asked, part)
			}
		}
	}
	for path, n := range reads {
		if n != 1 {
			t.Errorf("%s was read %d times", path, n)
		}
	}
	if len(reads) != 5 {
		t.Errorf("read were %v", reads)
	}
}

// TestARestartedContainerIsReadAgain: its new run is another log.
func TestARestartedContainerIsReadAgain(t *testing.T) {
	api := &logsAPI{pods: []corev1.Pod{running("web-a", "run-1")}, events: make(chan metav1.WatchEvent), logs: map[string]string{"web-a": "2026-01-01T12:00:00Z hello\n"}}
	s, shows := merge(t, api)
	shows("a  hello")
	text := &Text{}
	api.events <- watched(t, "MODIFIED", running("web-a", "run-2"))
	await.That(t, "the second run", func() error {
		if s.take(text); !slices.Contains(text.lines, "a  hello") {
			return errors.New("it is not read")
		}
		return nil
	})
}

// TestManyPodsAreFollowedInPart: and it says so once.
func TestManyPodsAreFollowedInPart(t *testing.T) {
	api := &logsAPI{events: make(chan metav1.WatchEvent), logs: map[string]string{}}
	for i := range mergedPods + 5 {
		name := fmt.Sprint("web-", i)
		api.pods = append(api.pods, running(name, "run-1"))
		api.logs[name] = "2026-01-01T12:00:00Z hello\n..."
	}
	s, shows := merge(t, api)
	shows(fmt.Sprintf("(there are more pods: %d are followed at a time)", mergedPods))
	text := &Text{}
	await.That(t, "their lines", func() error {
		s.take(text)
		api.mu.Lock()
		defer api.mu.Unlock()
		reads := 0
		for _, asked := range api.asked {
			if strings.Contains(asked, "/log?") {
				reads++
			}
		}
		if reads != mergedPods {
			return fmt.Errorf("%d logs are read", reads)
		}
		return nil
	})
}

// TestLinesAreInTheOrderOfTime: those that came together; lines without a time are first.
func TestLinesAreInTheOrderOfTime(t *testing.T) {
	s := &stream{changed: make(chan struct{}, 1)}
	for _, line := range []string{"2026-01-01T12:00:02Z c", "2026-01-01T12:00:00Z a", "2026-01-01T12:00:01.5+00:00 b", "2026-01-01T12:00:02Z d"} {
		at, text := stamped(line)
		s.add(at, text)
	}
	s.add(time.Time{}, "note")
	text := &Text{}
	s.take(text)
	if got := strings.Join(text.lines, " "); got != "note a b c d" {
		t.Errorf("the order is %q", got)
	}
}
