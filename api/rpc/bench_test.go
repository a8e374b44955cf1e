package rpc_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientrest "k8s.io/client-go/rest"

	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/api/registry/builtin"
	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
	"github.com/kontiki/kontiki/test/harness"
)

// wire counts the bytes that a client sends and receives, TLS included.
type wire struct{ bytes atomic.Int64 }

type countedConn struct {
	net.Conn
	wire *wire
}

func (c countedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.wire.bytes.Add(int64(n))
	return n, err
}

func (c countedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.wire.bytes.Add(int64(n))
	return n, err
}

func (w *wire) dial(ctx context.Context, _, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	return countedConn{conn, w}, err
}

// fronts are both fronts of one server, over TLS and HTTP/2 on loopback.
type fronts struct {
	*harness.Harness
	wire *wire
	api  kontikiv1.ObjectsClient
	http *http.Client
	host string
}

func newFronts(b *testing.B) *fronts {
	f := &fronts{Harness: harness.New(b), wire: &wire{}}
	config := f.Config("admin", "system:masters")
	secure, err := clientrest.TLSConfigFor(config)
	if err != nil {
		b.Fatal(err)
	}
	f.host = config.Host
	f.http = &http.Client{Transport: &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: secure.Clone(), DialContext: f.wire.dial}}
	f.api = kontikiv1.NewObjectsClient(f.GRPCWith("admin", []string{"system:masters"},
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return f.wire.dial(ctx, "", address) })))
	b.Cleanup(f.http.CloseIdleConnections)
	return f
}

// rest sends a request and reads the whole response.
func (f *fronts) rest(b *testing.B, method, path, contentType, accept string, body []byte) []byte {
	r, err := http.NewRequest(method, f.host+path, bytes.NewReader(body))
	if err != nil {
		b.Fatal(err)
	}
	r.Header.Set("Content-Type", contentType)
	r.Header.Set("Accept", accept)
	response, err := f.http.Do(r)
	if err != nil {
		b.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode >= 300 {
		b.Fatalf("%d %s %v", response.StatusCode, answer, err)
	}
	return answer
}

// measure calls f b.N times, and reports its cost.
func (f *fronts) measure(b *testing.B, call func(i int)) {
	call(-1) // connects
	took := make([]time.Duration, b.N)
	before := f.wire.bytes.Load()
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		began := time.Now()
		call(i)
		took[i] = time.Since(began)
	}
	b.StopTimer()
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
	b.ReportMetric(float64(f.wire.bytes.Load()-before)/float64(b.N), "wire-B/op")
}

var podKind = &kontikiv1.Kind{Version: "v1", Kind: "Pod"}

func benchPod(name string) *corev1.Pod {
	return &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{"app": "bench", "tier": "front"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "busybox:1", Ports: []corev1.ContainerPort{{ContainerPort: 80}}}}},
	}
}

const podsPath = "/api/v1/namespaces/default/pods"

// form is a way to send and get an object.
type form struct {
	name, media string // media is empty for gRPC
	encoding    kontikiv1.Encoding
}

var forms = []form{
	{"rest/json", jsonType, 0}, {"rest/protobuf", protoType, 0},
	{"grpc/json", "", kontikiv1.Encoding_ENCODING_JSON}, {"grpc/protobuf", "", kontikiv1.Encoding_ENCODING_PROTOBUF},
}

func must[T any](b *testing.B) func(T, error) T {
	return func(v T, err error) T {
		if err != nil {
			b.Fatal(err)
		}
		return v
	}
}

func BenchmarkCreate(b *testing.B) {
	row, _ := builtin.Kinds().ByGroupResource("", "pods")
	for _, form := range forms {
		b.Run(form.name, func(b *testing.B) {
			f := newFronts(b)
			bodies := make([][]byte, b.N+1)
			for i := range bodies {
				pod := benchPod(fmt.Sprint("p-", i))
				if form.name == "rest/json" || form.name == "grpc/json" {
					bodies[i] = must[[]byte](b)(json.Marshal(pod))
				} else if bodies[i] = must[[]byte](b)(pod.Marshal()); form.media != "" {
					bodies[i] = registry.Envelope(row.GVK(), bodies[i])
				}
			}
			f.measure(b, func(i int) {
				if form.media != "" {
					f.rest(b, "POST", podsPath, form.media, form.media, bodies[i+1])
					return
				}
				must[*kontikiv1.CreateResponse](b)(f.api.Create(context.Background(), &kontikiv1.CreateRequest{
					Object: &kontikiv1.Object{Kind: podKind, Namespace: "default", Encoding: form.encoding, Data: bodies[i+1]}}))
			})
		})
	}
}

func (f *fronts) fill(b *testing.B, n int) {
	for i := range n {
		must[*kontikiv1.CreateResponse](b)(f.api.Create(context.Background(), &kontikiv1.CreateRequest{Object: object(b, podKind, benchPod(fmt.Sprintf("p-%05d", i)))}))
	}
}

func BenchmarkGet(b *testing.B) {
	for _, form := range forms {
		b.Run(form.name, func(b *testing.B) {
			f := newFronts(b)
			f.fill(b, 1)
			f.measure(b, func(int) {
				if form.media != "" {
					f.rest(b, "GET", podsPath+"/p-00000", "", form.media, nil)
					return
				}
				must[*kontikiv1.GetResponse](b)(f.api.Get(context.Background(), &kontikiv1.GetRequest{
					Reference: &kontikiv1.Reference{Kind: podKind, Namespace: "default", Name: "p-00000"}, Encoding: form.encoding}))
			})
		})
	}
}

func BenchmarkList1000(b *testing.B) {
	for _, form := range forms {
		b.Run(form.name, func(b *testing.B) {
			f := newFronts(b)
			f.fill(b, 1000)
			f.measure(b, func(int) {
				if form.media != "" {
					f.rest(b, "GET", podsPath, "", form.media, nil)
					return
				}
				stream := must[kontikiv1.Objects_ListClient](b)(f.api.List(context.Background(), &kontikiv1.ListRequest{Kind: podKind, Namespace: "default", Encoding: form.encoding}))
				for n := 0; ; {
					page, err := stream.Recv()
					if errors.Is(err, io.EOF) && n == 1000 {
						return
					}
					n += len(must[*kontikiv1.ListResponse](b)(page, err).Objects)
				}
			})
		})
	}
}

// BenchmarkFanOut1000: in every operation, one pod is created and seen by each of 1,000 watches, which share 4 connections.
func BenchmarkFanOut1000(b *testing.B) {
	const watches, connections = 1000, 4
	for _, form := range forms {
		b.Run(form.name, func(b *testing.B) {
			f := newFronts(b)
			ctx, cancel := context.WithCancel(context.Background())
			var began, seen, ended sync.WaitGroup
			began.Add(watches)
			clients := make([]*http.Client, connections)
			apis := make([]kontikiv1.ObjectsClient, connections)
			for i := range connections {
				clients[i] = &http.Client{Transport: f.http.Transport.(*http.Transport).Clone()}
				apis[i] = kontikiv1.NewObjectsClient(f.GRPCWith("admin", []string{"system:masters"},
					grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return f.wire.dial(ctx, "", address) })))
			}
			revision := fmt.Sprint(f.Store.View().Revision())
			for i := range watches {
				ended.Go(func() {
					next, err := f.watch(ctx, clients[i%connections], apis[i%connections], form, revision)
					began.Done()
					for err == nil {
						if err = next(); err == nil {
							seen.Done()
						}
					}
				})
			}
			began.Wait()
			before := f.wire.bytes.Load()
			f.measure(b, func(i int) {
				seen.Add(watches)
				must[*kontikiv1.CreateResponse](b)(f.api.Create(context.Background(), &kontikiv1.CreateRequest{Object: object(b, podKind, benchPod(fmt.Sprint("p-", i)))}))
				seen.Wait()
			})
			b.ReportMetric(float64(watches*b.N)/b.Elapsed().Seconds(), "events/s")
			b.ReportMetric(float64(f.wire.bytes.Load()-before)/float64(watches*(b.N+1)), "wire-B/event")
			cancel()
			ended.Wait()
			for _, client := range clients {
				client.CloseIdleConnections()
			}
		})
	}
}

// watch begins a watch of pods; the returned function waits for its next event.
func (f *fronts) watch(ctx context.Context, client *http.Client, api kontikiv1.ObjectsClient, form form, revision string) (next func() error, err error) {
	if form.media == "" {
		stream, err := api.Watch(ctx, &kontikiv1.WatchRequest{Kind: podKind, ResourceVersion: revision, Encoding: form.encoding})
		if err != nil {
			return nil, err
		}
		_, err = stream.Header()
		return func() error {
			_, err := stream.Recv()
			return err
		}, err
	}
	r, err := http.NewRequestWithContext(ctx, "GET", f.host+podsPath+"?watch=1&resourceVersion="+revision, nil)
	if err != nil {
		return nil, err
	}
	if form.media == protoType {
		r.Header.Set("Accept", protoType+";stream=watch")
	}
	response, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() { response.Body.Close() })
	body := bufio.NewReader(response.Body)
	if form.media == protoType { // each event behind its length
		return func() error {
			head, err := body.Peek(4)
			if err != nil {
				return err
			}
			_, err = body.Discard(4 + int(binary.BigEndian.Uint32(head)))
			return err
		}, nil
	}
	return func() error {
		for {
			if _, err := body.ReadSlice('\n'); !errors.Is(err, bufio.ErrBufferFull) {
				return err
			}
		}
	}, nil
}

// BenchmarkTransact creates a number of ConfigMaps by one transaction. The REST form is JSON.
func BenchmarkTransact(b *testing.B) {
	for _, n := range []int{1, 10, 100} {
		for _, form := range forms {
			if form.name == "rest/protobuf" {
				continue
			}
			b.Run(fmt.Sprint(form.name, "/", n), func(b *testing.B) {
				f := newFronts(b)
				f.measure(b, func(i int) {
					if form.media != "" {
						operations := make([]string, n)
						for k := range n {
							operations[k] = `{"create":` + benchConfigMap(i, k) + `}`
						}
						f.rest(b, "POST", transactions, jsonType, jsonType, []byte(`{"operations":[`+strings.Join(operations, ",")+`]}`))
						return
					}
					tx := &kontikiv1.TransactRequest{Encoding: form.encoding}
					for k := range n {
						if form.encoding == kontikiv1.Encoding_ENCODING_JSON {
							tx.Operations = append(tx.Operations, createOp(jsonObject(configMaps, benchConfigMap(i, k))))
						} else {
							tx.Operations = append(tx.Operations, createOp(configMap(b, fmt.Sprintf("t%d-%d", i+1, k), map[string]string{"k": "v"})))
						}
					}
					must[*kontikiv1.TransactResponse](b)(f.api.Transact(context.Background(), tx))
				})
			})
		}
	}
}

func benchConfigMap(i, k int) string {
	return fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"namespace":"default","name":"t%d-%d"},"data":{"k":"v"}}`, i+1, k)
}
