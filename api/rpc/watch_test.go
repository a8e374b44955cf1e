package rpc_test

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/fsm"
	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
	"github.com/kontiki/kontiki/test/harness"
)

const (
	added    = kontikiv1.WatchResponse_TYPE_ADDED
	modified = kontikiv1.WatchResponse_TYPE_MODIFIED
	deleted  = kontikiv1.WatchResponse_TYPE_DELETED
	bookmark = kontikiv1.WatchResponse_TYPE_BOOKMARK
)

// store creates a ConfigMap in process.
func store(t testing.TB, h *harness.Harness, name, value string) {
	t.Helper()
	if _, err := client.Create(context.Background(), h.Client, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Data: map[string]string{"k": value}}); err != nil {
		t.Fatal(err)
	}
}

// next returns the next event, as TYPE name.
func next(t *testing.T, stream kontikiv1.Objects_WatchClient) *kontikiv1.WatchResponse {
	t.Helper()
	event, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	return event
}

func wantEvent(t *testing.T, event *kontikiv1.WatchResponse, typ kontikiv1.WatchResponse_Type, name string) {
	t.Helper()
	if event.Type != typ || event.GetObject().GetName() != name {
		t.Errorf("%v, want %v of %q", event, typ, name)
	}
	if event.Object != nil && typ != deleted && event.Object.ResourceVersion != event.ResourceVersion {
		t.Errorf("an object of %s in an event of %s", event.Object.ResourceVersion, event.ResourceVersion)
	}
}

func TestAWatchShowsWhatIsThereAndThenEachChangeInOrder(t *testing.T) {
	h := harness.New(t)
	ctx := deadline(t)
	api := kontikiv1.NewObjectsClient(h.GRPC("admin", "system:masters"))
	store(t, h, "a", "1")
	store(t, h, "b", "1")
	stream, err := api.Watch(ctx, &kontikiv1.WatchRequest{Kind: configMaps, Namespace: "default", SendInitialEvents: true})
	if err != nil {
		t.Fatal(err)
	}
	wantEvent(t, next(t, stream), added, "a")
	wantEvent(t, next(t, stream), added, "b")
	end := next(t, stream)
	wantEvent(t, end, bookmark, "")
	if !end.InitialEventsEnd {
		t.Errorf("%v does not end the initial objects", end)
	}
	store(t, h, "c", "1")
	if _, err := api.Patch(ctx, &kontikiv1.PatchRequest{Reference: ref("a"), Type: kontikiv1.PatchType_PATCH_TYPE_MERGE, Patch: []byte(`{"data":{"k":"2"}}`)}); err != nil {
		t.Fatal(err)
	}
	if _, err := api.Delete(ctx, &kontikiv1.DeleteRequest{Reference: ref("b")}); err != nil {
		t.Fatal(err)
	}
	c := next(t, stream)
	wantEvent(t, c, added, "c")
	changed := next(t, stream)
	wantEvent(t, changed, modified, "a")
	if decoded(t, changed.Object).Data["k"] != "2" {
		t.Errorf("%v", changed)
	}
	gone := next(t, stream)
	wantEvent(t, gone, deleted, "b")

	resumed, err := api.Watch(ctx, &kontikiv1.WatchRequest{Kind: configMaps, Namespace: "default", ResourceVersion: c.ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	wantEvent(t, next(t, resumed), modified, "a")
	wantEvent(t, next(t, resumed), deleted, "b")

	only, err := api.Watch(ctx, &kontikiv1.WatchRequest{Kind: configMaps, Namespace: "default", Name: "c", Encoding: kontikiv1.Encoding_ENCODING_JSON})
	if err != nil {
		t.Fatal(err)
	}
	event := next(t, only)
	wantEvent(t, event, added, "c")
	if !strings.HasPrefix(string(event.Object.Data), `{"kind":"ConfigMap"`) || event.Object.Uid == "" {
		t.Errorf("%v", event)
	}
}

func TestAWatchOfARevisionThatIsGoneIsOutOfRange(t *testing.T) {
	h := harness.NewWith(t, fsm.Options{HistoryEvents: 4})
	api := kontikiv1.NewObjectsClient(h.GRPC("admin", "system:masters"))
	for i := range 20 {
		store(t, h, fmt.Sprint("a", i), "")
	}
	stream, err := api.Watch(deadline(t), &kontikiv1.WatchRequest{Kind: configMaps, ResourceVersion: "2"})
	if err == nil {
		_, err = stream.Recv()
	}
	wantCode(t, err, codes.OutOfRange)
	if found, _ := statusIn(t, err); found.Reason != metav1.StatusReasonExpired || !strings.Contains(found.Message, "too old resource version: 2") {
		t.Errorf("%v", found)
	}
}

// running counts the goroutines that are in a function.
func running(function string) int {
	buf := make([]byte, 64<<20)
	return strings.Count(string(buf[:runtime.Stack(buf, true)]), function+"(")
}

const watchFunction = "rpc.(*objectsServer).Watch"

// await polls until a condition is met: there is no event for changes of the counters of streams and goroutines.
func await(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 30 s", what)
		}
	}
}

func TestACancelledWatchEndsItsGoroutine(t *testing.T) {
	h := harness.New(t)
	api := kontikiv1.NewObjectsClient(h.GRPC("admin", "system:masters"))
	ctx, cancel := context.WithCancel(deadline(t))
	defer cancel()
	stream, err := api.Watch(ctx, &kontikiv1.WatchRequest{Kind: configMaps, ResourceVersion: "1"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Header(); err != nil { // it has begun
		t.Fatal(err)
	}
	await(t, "the watch begins", func() bool { return running(watchFunction) == 1 })
	cancel()
	await(t, "the watch ends", func() bool { return running(watchFunction) == 0 })
	for err == nil { // it may have had something to show
		_, err = stream.Recv()
	}
	wantCode(t, err, codes.Canceled)
}

func TestAThousandWatchesSeeEverythingInOrder(t *testing.T) {
	if testing.Short() {
		t.Skip("1,000 streams") // -short is for whoever works on something else; make test does not set it
	}
	const streams, changes, connections = 1000, 10, 4
	h := harness.New(t)
	h.Serve()
	ctx := deadline(t)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var apis []kontikiv1.ObjectsClient
	for range connections {
		apis = append(apis, kontikiv1.NewObjectsClient(h.GRPC("admin", "system:masters")))
	}
	now := fmt.Sprint(h.Store.View().Revision())
	var watchers sync.WaitGroup
	failures := make(chan error, streams)
	began := make(chan struct{}, streams)
	for i := range streams {
		watchers.Go(func() {
			stream, err := apis[i%connections].Watch(ctx, &kontikiv1.WatchRequest{Kind: configMaps, ResourceVersion: now})
			if err == nil {
				_, err = stream.Header()
			}
			began <- struct{}{}
			for n := 0; n < changes && err == nil; n++ {
				var event *kontikiv1.WatchResponse
				if event, err = stream.Recv(); err == nil && event.Object.Name != fmt.Sprint("a", n) {
					err = fmt.Errorf("event %d is of %s", n, event.Object.Name)
				}
			}
			if err != nil {
				failures <- err
			}
		})
	}
	for range streams {
		<-began
	}
	for n := range changes {
		store(t, h, fmt.Sprint("a", n), "")
	}
	watchers.Wait()
	close(failures)
	for err := range failures {
		t.Fatal(err)
	}
	cancel()
	await(t, "all watches end", func() bool { return running(watchFunction) == 0 })
}

// TestAWatchTellsHowFarItIs watches objects that do not change.
func TestAWatchTellsHowFarItIs(t *testing.T) {
	h := harness.New(t)
	h.RPC.SetWatches(time.Minute, 50*time.Millisecond)
	api := kontikiv1.NewObjectsClient(h.GRPC("admin", "system:masters"))
	quiet, err := api.Watch(deadline(t), &kontikiv1.WatchRequest{
		Kind: configMaps, ResourceVersion: fmt.Sprint(h.Store.View().Revision()), LabelSelector: "k=none", Bookmarks: true})
	if err != nil {
		t.Fatal(err)
	}
	store(t, h, "a", "") // which it does not select
	now := fmt.Sprint(h.Store.View().Revision())
	event := next(t, quiet)
	wantEvent(t, event, bookmark, "")
	for event.ResourceVersion != now { // an earlier one may come first
		event = next(t, quiet)
		wantEvent(t, event, bookmark, "")
	}
	if event.InitialEventsEnd || event.Object != nil {
		t.Errorf("%v", event)
	}
}

// TestAWatchEndsInTime: the watch ends with UNAVAILABLE, and another one continues where it ended.
func TestAWatchEndsInTime(t *testing.T) {
	h := harness.New(t)
	h.RPC.SetWatches(time.Second, 50*time.Millisecond)
	api := kontikiv1.NewObjectsClient(h.GRPC("admin", "system:masters"))
	begin := fmt.Sprint(h.Store.View().Revision())
	over := func(err error) {
		t.Helper()
		wantCode(t, err, codes.Unavailable)
		if !strings.Contains(status.Convert(err).Message(), "start another at the last resource version") {
			t.Error(err)
		}
	}
	for _, bookmarks := range []bool{true, false} {
		stream, err := api.Watch(deadline(t), &kontikiv1.WatchRequest{Kind: configMaps, ResourceVersion: begin, LabelSelector: "k=none", Bookmarks: bookmarks})
		for err == nil {
			var event *kontikiv1.WatchResponse
			if event, err = stream.Recv(); err == nil && !bookmarks {
				t.Errorf("a watch that selects nothing and asked for no bookmarks shows %v", event)
			}
		}
		over(err)
	}
	store(t, h, "b", "")
	for end := deadline(t); ; { // it may be over before it has begun
		resumed, err := api.Watch(end, &kontikiv1.WatchRequest{Kind: configMaps, ResourceVersion: begin})
		if err != nil {
			t.Fatal(err)
		}
		event, err := resumed.Recv()
		if err == nil {
			wantEvent(t, event, added, "b")
			return
		}
		if over(err); t.Failed() {
			return
		}
	}
}

// TestAClientThatDoesNotReadIsCutOffAndHindersNobody fills the window of a stream that is not read.
func TestAClientThatDoesNotReadIsCutOffAndHindersNobody(t *testing.T) {
	h := harness.New(t)
	h.RPC.SetLimits(300*time.Millisecond, time.Minute)
	ctx := deadline(t)
	idle := kontikiv1.NewObjectsClient(h.GRPC("admin", "system:masters"))
	stream, err := idle.Watch(ctx, &kontikiv1.WatchRequest{Kind: configMaps, Namespace: "default"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Header(); err != nil {
		t.Fatal(err)
	}
	other, err := kontikiv1.NewObjectsClient(h.GRPC("admin", "system:masters")).Watch(ctx, &kontikiv1.WatchRequest{Kind: configMaps, Namespace: "default"})
	if err != nil {
		t.Fatal(err)
	}
	const objects = 300
	value := strings.Repeat("x", 16<<10)
	for i := range objects {
		store(t, h, fmt.Sprint("a", i), value)
		wantEvent(t, next(t, other), added, fmt.Sprint("a", i))
	}
	// The call ends although the client does not read it; the one that it reads continues.
	await(t, "the stalled watch ends", func() bool { return running(watchFunction) == 1 })
	// Other calls on the same connection are not affected.
	if _, err := idle.Get(ctx, &kontikiv1.GetRequest{Reference: ref("a0")}); err != nil {
		t.Error(err)
	}
	received := 0
	for err == nil {
		if _, err = stream.Recv(); err == nil {
			received++
		}
	}
	wantCode(t, err, codes.ResourceExhausted)
	if found, _ := statusIn(t, err); found.Reason != metav1.StatusReasonTooManyRequests || !strings.Contains(found.Message, "the client did not read it") {
		t.Errorf("%v", found)
	}
	if received == 0 || received >= objects {
		t.Errorf("%d of %d events came before the end", received, objects)
	}
	// The stream that is not read is reset in the end.
	store(t, h, "last", "")
	wantEvent(t, next(t, other), added, "last")
}

// fill stores more than fits into a stream's window.
func fill(t *testing.T, h *harness.Harness) {
	t.Helper()
	value := strings.Repeat("x", 512<<10)
	for i := range 20 {
		store(t, h, fmt.Sprint("a", i), value)
	}
}

// TestAListThatNobodyReadsIsCutOff reads late: the status with the reason follows the data that was on its way.
func TestAListThatNobodyReadsIsCutOff(t *testing.T) {
	h := harness.New(t)
	h.RPC.SetLimits(50*time.Millisecond, time.Minute)
	fill(t, h)
	stream, err := kontikiv1.NewObjectsClient(h.GRPC("admin", "system:masters")).List(deadline(t), &kontikiv1.ListRequest{Kind: configMaps})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Header(); err != nil { // the list has begun
		t.Fatal(err)
	}
	await(t, "the list ends", func() bool { return running("rpc.(*objectsServer).List") == 0 })
	objects := 0
	for err == nil {
		var page *kontikiv1.ListResponse
		if page, err = stream.Recv(); err == nil {
			objects += len(page.Objects)
		}
	}
	wantCode(t, err, codes.ResourceExhausted)
	if found, _ := statusIn(t, err); found.Reason != metav1.StatusReasonTooManyRequests || !strings.Contains(found.Message, "the client did not read it") {
		t.Errorf("%v", found)
	}
	if objects >= 20 {
		t.Errorf("all %d objects came", objects)
	}
}

func TestAStreamThatNobodyEverReadsIsReset(t *testing.T) {
	h := harness.New(t)
	h.RPC.SetLimits(50*time.Millisecond, 50*time.Millisecond)
	fill(t, h)
	stream, err := kontikiv1.NewObjectsClient(h.GRPC("admin", "system:masters")).List(deadline(t), &kontikiv1.ListRequest{Kind: configMaps})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Header(); err != nil { // the list has begun
		t.Fatal(err)
	}
	await(t, "nothing is left of the stream", func() bool { return running("rpc.(*Server).ServeHTTP") == 0 })
	for err == nil {
		_, err = stream.Recv()
	}
	wantCode(t, err, codes.Internal) // what gRPC makes of HTTP/2's RST_STREAM
	if !strings.Contains(err.Error(), "RST_STREAM") {
		t.Error(err)
	}
}
