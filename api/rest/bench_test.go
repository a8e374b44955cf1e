package rest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/apiserver"
	"github.com/kontiki/kontiki/api/audit"
	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/api/flow"
	"github.com/kontiki/kontiki/test/harness"
)

// do sends a request through the REST handler in process, as an administrator.
func do(b testing.TB, h *harness.Harness, method, path, contentType string, body []byte, accept string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, bytes.NewReader(body))
	r.Header.Set("Content-Type", contentType)
	r.Header.Set("User-Agent", "bench/1")
	if accept != "" {
		r.Header.Set("Accept", accept)
	}
	w := httptest.NewRecorder()
	h.AsAdmin().ServeHTTP(w, r)
	if w.Code >= 300 {
		b.Fatalf("%s %s: %d %s", method, path, w.Code, w.Body)
	}
	return w
}

func encode(b testing.TB, obj any) []byte {
	data, err := json.Marshal(obj)
	if err != nil {
		b.Fatal(err)
	}
	return data
}

const podsPath = "/api/v1/namespaces/default/pods"

func benchPod(name string) *corev1.Pod {
	p := pod(name)
	p.TypeMeta = metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"}
	return p
}

func BenchmarkCreatePod(b *testing.B) {
	h := harness.New(b)
	bodies := make([][]byte, b.N)
	for i := range bodies {
		bodies[i] = encode(b, benchPod(fmt.Sprint("p-", i)))
	}
	b.ReportAllocs()
	b.ResetTimer()
	for _, body := range bodies {
		do(b, h, "POST", podsPath, "application/json", body, "")
	}
}

func BenchmarkGetPod(b *testing.B) {
	for _, accept := range []string{"application/json", "application/vnd.kubernetes.protobuf"} {
		b.Run(accept, func(b *testing.B) {
			h := harness.New(b)
			do(b, h, "POST", podsPath, "application/json", encode(b, benchPod("p")), "")
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				do(b, h, "GET", podsPath+"/p", "", nil, accept)
			}
		})
	}
}

// BenchmarkGetAudited gets a pod without an audit log, and with one at level Metadata, with two events or one in a file.
func BenchmarkGetAudited(b *testing.B) {
	for _, c := range []struct{ name, policy, mode string }{
		{"off", "", ""},
		{"none", "rules: [{level: None}]", audit.ModeBlocking},
		{"metadata", "rules: [{level: Metadata}]", audit.ModeBlocking},
		{"metadata-complete-only", "omitStages: [RequestReceived]\nrules: [{level: Metadata}]", audit.ModeBlocking},
		{"metadata-batch", "rules: [{level: Metadata}]", audit.ModeBatch},
	} {
		b.Run(c.name, func(b *testing.B) {
			h := harness.NewConfigured(b, func(config *apiserver.Config) {
				if c.policy == "" {
					return
				}
				policy := filepath.Join(b.TempDir(), "policy.yaml")
				if err := os.WriteFile(policy, []byte("apiVersion: audit.k8s.io/v1\nkind: Policy\n"+c.policy), 0o600); err != nil {
					b.Fatal(err)
				}
				var err error
				if config.Audit, err = audit.New(audit.Config{PolicyFile: policy, LogPath: filepath.Join(b.TempDir(), "audit.log"),
					Mode: c.mode, Rotation: audit.Rotation{MaxSize: 100 << 20, MaxBackups: 1}}); err != nil {
					b.Fatal(err)
				}
				b.Cleanup(func() { config.Audit.Close() })
			})
			do(b, h, "POST", podsPath, "application/json", encode(b, benchPod("p")), "")
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				do(b, h, "GET", podsPath+"/p", "", nil, "application/vnd.kubernetes.protobuf")
			}
		})
	}
}

func status(i int) corev1.PodStatus {
	now := metav1.Now()
	return corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.1", PodIPs: []corev1.PodIP{{IP: "10.0.0.1"}}, HostIP: "10.1.0.1", StartTime: &now,
		Conditions: []corev1.PodCondition{
			{Type: corev1.PodInitialized, Status: corev1.ConditionTrue, LastTransitionTime: now},
			{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: now},
			{Type: corev1.ContainersReady, Status: corev1.ConditionTrue, LastTransitionTime: now},
		},
		ContainerStatuses: []corev1.ContainerStatus{{Name: "c", Image: "busybox", ImageID: "x", ContainerID: "containerd://y", Ready: true, RestartCount: int32(i),
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}}}}}
}

// BenchmarkUpdateStatus writes a pod's status again and again, as an agent does: the values change, the set of fields does not.
func BenchmarkUpdateStatus(b *testing.B) {
	h := harness.New(b)
	var p corev1.Pod
	if err := json.Unmarshal(do(b, h, "POST", podsPath, "application/json", encode(b, benchPod("p")), "").Body.Bytes(), &p); err != nil {
		b.Fatal(err)
	}
	p.ResourceVersion = ""
	bodies := make([][]byte, b.N)
	for i := range bodies {
		p.Status = status(i)
		bodies[i] = encode(b, &p)
	}
	b.ReportAllocs()
	b.ResetTimer()
	for _, body := range bodies {
		do(b, h, "PUT", podsPath+"/p/status", "application/json", body, "")
	}
}

// BenchmarkFirstStatus writes the first status of a new pod in each operation: fields get a new owner.
func BenchmarkFirstStatus(b *testing.B) {
	h := harness.New(b)
	ctx := context.Background()
	var pods []*corev1.Pod
	for i := range b.N {
		p := pod(fmt.Sprint("p-", i))
		p.Namespace = "default"
		p, err := client.Create(ctx, h.Client, p)
		if err != nil {
			b.Fatal(err)
		}
		p.Status = status(i)
		pods = append(pods, p)
	}
	b.ReportAllocs()
	b.ResetTimer()
	for _, p := range pods {
		if _, err := client.UpdateStatus(ctx, h.Client, p); err != nil {
			b.Fatal(err)
		}
	}
}

func fill(b testing.TB, h *harness.Harness, n int) {
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := w; i < n; i += 8 {
				do(b, h, "POST", podsPath, "application/json", encode(b, benchPod(fmt.Sprintf("p-%05d", i))), "")
			}
		})
	}
	wg.Wait()
}

func BenchmarkList5000Pods(b *testing.B) {
	h := harness.New(b)
	fill(b, h, 5000)
	for _, accept := range []string{"application/json", "application/vnd.kubernetes.protobuf", "application/json;as=Table;g=meta.k8s.io;v=v1"} {
		b.Run(accept, func(b *testing.B) {
			b.ReportAllocs()
			for range b.N {
				b.SetBytes(int64(do(b, h, "GET", podsPath, "", nil, accept).Body.Len()))
			}
		})
	}
}

// counter is a response that counts a watch's events.
type counter struct {
	header http.Header
	seen   func(events int)
}

func (c *counter) Header() http.Header { return c.header }
func (c *counter) WriteHeader(int)     {}
func (c *counter) Flush()              {}
func (c *counter) Write(data []byte) (int, error) {
	c.seen(bytes.Count(data, []byte("\n")))
	return len(data), nil
}

// BenchmarkFanOut: every operation is one pod created and seen by each of 100 watchers.
func BenchmarkFanOut100(b *testing.B) {
	h := harness.New(b)
	ctx, cancel := context.WithCancel(context.Background())
	var watchers, seen sync.WaitGroup
	for range 100 {
		watchers.Go(func() {
			r := httptest.NewRequest("GET", podsPath+"?watch=1", strings.NewReader("")).WithContext(ctx)
			h.AsAdmin().ServeHTTP(&counter{header: http.Header{}, seen: func(n int) {
				for range n {
					seen.Done()
				}
			}}, r)
		})
	}
	bodies := make([][]byte, b.N)
	for i := range bodies {
		bodies[i] = encode(b, benchPod(fmt.Sprint("p-", i)))
	}
	seen.Add(100 * b.N)
	b.ReportAllocs()
	b.ResetTimer()
	for _, body := range bodies {
		do(b, h, "POST", podsPath, "application/json", body, "")
	}
	seen.Wait()
	b.StopTimer()
	b.ReportMetric(float64(100*b.N)/b.Elapsed().Seconds(), "events/s")
	cancel()
	watchers.Wait()
}

// discarding is a response whose client reads everything at once.
type discarding struct {
	header http.Header
	bytes  int64
}

func (d *discarding) Header() http.Header { return d.header }
func (d *discarding) WriteHeader(int)     {}
func (d *discarding) Write(data []byte) (int, error) {
	d.bytes += int64(len(data))
	return len(data), nil
}

// BenchmarkListsOf50000Pods lists 50,000 pods 16 times at once, and reports by how much memory in use (the heap with its garbage, and
// stacks) exceeds that before, at most.
func BenchmarkListsOf50000Pods(b *testing.B) {
	const pods, lists = 50_000, 16
	h := harness.New(b)
	fill(b, h, pods)
	for _, c := range []struct{ name, accept, encoding string }{
		{"JSON", "application/json", ""},
		{"JSON gzip", "application/json", "gzip"},
		{"protobuf", "application/vnd.kubernetes.protobuf", ""},
		{"table", "application/json;as=Table;g=meta.k8s.io;v=v1", ""},
		{"metadata", "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", ""},
		{"metadata in protobuf", "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", ""},
	} {
		b.Run(c.name, func(b *testing.B) {
			runtime.GC()
			before := inUse()
			var most atomic.Int64
			stop := make(chan struct{})
			var sampler sync.WaitGroup
			sampler.Go(func() {
				for {
					most.Store(max(most.Load(), inUse()))
					select {
					case <-stop:
						return
					case <-time.After(5 * time.Millisecond):
					}
				}
			})
			var bytes int64
			b.ResetTimer()
			for range b.N {
				var group sync.WaitGroup
				for range lists {
					group.Go(func() {
						r := httptest.NewRequest("GET", podsPath, nil)
						r.Header.Set("Accept", c.accept)
						r.Header.Set("Accept-Encoding", c.encoding)
						w := &discarding{header: http.Header{}}
						h.AsAdmin().ServeHTTP(w, r)
						atomic.StoreInt64(&bytes, w.bytes)
					})
				}
				group.Wait()
			}
			b.StopTimer()
			close(stop)
			sampler.Wait()
			b.SetBytes(lists * bytes)
			b.ReportMetric(float64(most.Load()-before)/1e6, "MB-more")
			b.ReportMetric(float64(before)/1e6, "MB-before")
		})
	}
}

func inUse() int64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}

// BenchmarkBesideIdleWatchers creates a pod and gets it, beside watches of other objects that nothing happens to, and reports the memory
// of each of these. They must cost others nothing.
func BenchmarkBesideIdleWatchers(b *testing.B) {
	for _, watchers := range []int{0, 10_000} {
		b.Run(fmt.Sprint(watchers), func(b *testing.B) {
			h := harness.NewConfigured(b, func(c *apiserver.Config) { c.Limits = flow.New(600) })
			ctx, cancel := context.WithCancel(context.Background())
			var running, begun sync.WaitGroup
			begun.Add(watchers)
			before := inUse()
			for range watchers {
				running.Go(func() {
					r := httptest.NewRequest("GET", configMapsPath+"?watch=1", nil).WithContext(ctx)
					h.AsAdmin().ServeHTTP(&beginning{header: http.Header{}, begun: begun.Done}, r)
				})
			}
			begun.Wait()
			runtime.GC()
			each := float64(inUse()-before) / float64(max(watchers, 1))
			b.ResetTimer()
			for i := range b.N {
				name := fmt.Sprint("p-", i)
				do(b, h, "POST", podsPath, "application/json", encode(b, benchPod(name)), "")
				do(b, h, "GET", podsPath+"/"+name, "", nil, "")
			}
			b.StopTimer()
			if watchers > 0 {
				b.ReportMetric(each, "B/watcher")
			}
			cancel()
			running.Wait()
		})
	}
}

// beginning is a response that says when it begins.
type beginning struct {
	header http.Header
	begun  func()
}

func (w *beginning) Header() http.Header            { return w.header }
func (w *beginning) WriteHeader(int)                { w.begun() }
func (w *beginning) Flush()                         {}
func (w *beginning) Write(data []byte) (int, error) { return len(data), nil }
