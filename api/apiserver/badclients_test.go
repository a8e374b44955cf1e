package apiserver_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientrest "k8s.io/client-go/rest"

	"k8s.io/client-go/kubernetes"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/test/await"
	"github.com/kontiki/kontiki/test/harness"
)

// badClientPatience limits the whole test; nothing in it is expected to take that long.
const badClientPatience = 5 * time.Minute

// TestIdleWatchersAndBadClientsStopNobody holds thousands of idle watchers over real connections, beside clients that connect and say
// nothing, begin a handshake, send a body slowly, and read no response. All requests of another client are served meanwhile, what a
// watcher costs is bounded, and afterwards each watcher is still served an event.
func TestIdleWatchersAndBadClientsStopNobody(t *testing.T) {
	h := harness.New(t)
	ctx, cancel := context.WithTimeout(t.Context(), badClientPatience)
	defer cancel()
	large := strings.Repeat("x", 500<<10)
	for i := range 16 {
		if _, err := client.Create(ctx, h.Client, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: fmt.Sprint("large-", i)}, Data: map[string]string{"x": large}}); err != nil {
			t.Fatal(err)
		}
	}
	config := h.Config("watcher", "system:masters")
	secured, err := clientrest.TLSConfigFor(config)
	if err != nil {
		t.Fatal(err)
	}
	address := strings.TrimPrefix(config.Host, "https://")

	// The idle watchers, as many streams of a few connections.
	transport := &http.Transport{TLSClientConfig: secured.Clone(), ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	watching, endWatches := context.WithCancel(ctx)
	defer endWatches()
	goroutines, before := runtime.NumGoroutine(), h.Store.Stats().Watchers
	revision := h.Store.View().Revision()
	watches := make([]*http.Response, manyWatchers)
	opening, opened := errgroup.WithContext(ctx)
	opening.SetLimit(32)
	for i := range watches {
		opening.Go(func() error {
			if opened.Err() != nil {
				return nil
			}
			r, err := http.NewRequestWithContext(watching, http.MethodGet, fmt.Sprintf("%s/api/v1/namespaces/default/configmaps?watch=1&resourceVersion=%d", config.Host, revision), nil)
			if err != nil {
				return err
			}
			if watches[i], err = transport.RoundTrip(r); err != nil {
				return fmt.Errorf("watch %d: %w", i, err)
			}
			if watches[i].StatusCode != http.StatusOK || watches[i].ProtoMajor != 2 {
				return fmt.Errorf("watch %d: %s by %s", i, watches[i].Status, watches[i].Proto)
			}
			return nil
		})
	}
	if err := opening.Wait(); err != nil {
		t.Fatal(err)
	}
	if n := h.Store.Stats().Watchers - before; n != manyWatchers {
		t.Errorf("%d watchers are open, want %d", n, manyWatchers)
	}
	if n := runtime.NumGoroutine() - goroutines; n > 6*manyWatchers {
		t.Errorf("%d goroutines for %d watchers, their clients included", n, manyWatchers)
	}

	// The bad clients.
	dial := func() net.Conn {
		t.Helper()
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	for i := range 300 {
		if conn := dial(); i%3 == 0 {
			conn.Write([]byte{0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00}) // the beginning of a ClientHello
		}
	}
	http1 := secured.Clone()
	http1.NextProtos = []string{"http/1.1"}
	http1.ServerName = "localhost"
	send := func(text string) {
		t.Helper()
		raw := dial()
		if err := raw.(*net.TCPConn).SetReadBuffer(4096); err != nil {
			t.Fatal(err)
		}
		conn := tls.Client(raw, http1)
		if _, err := conn.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	for range 100 {
		send("POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n{")
	}
	for range 24 {
		send("GET /api/v1/namespaces/kube-system/configmaps HTTP/1.1\r\nHost: x\r\n\r\n") // 8 MB, which nobody reads
	}

	// Another client goes on.
	set, err := kubernetes.NewForConfig(h.Config("other", "system:masters"))
	if err != nil {
		t.Fatal(err)
	}
	var served atomic.Int64
	working, _ := errgroup.WithContext(ctx)
	for w := range 4 {
		working.Go(func() error {
			secrets := set.CoreV1().Secrets("default")
			for i := range 100 {
				name := fmt.Sprintf("s-%d-%d", w, i)
				made, err := secrets.Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, StringData: map[string]string{"a": "1"}}, metav1.CreateOptions{})
				if err != nil {
					return err
				}
				made.StringData = map[string]string{"a": "2"}
				if _, err = secrets.Update(ctx, made, metav1.UpdateOptions{}); err != nil {
					return err
				}
				if got, err := secrets.Get(ctx, name, metav1.GetOptions{}); err != nil || string(got.Data["a"]) != "2" {
					return fmt.Errorf("get: %v, %v", got, err)
				}
				if _, err := secrets.List(ctx, metav1.ListOptions{Limit: 10}); err != nil {
					return err
				}
				if err := secrets.Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
					return err
				}
				served.Add(5)
			}
			return nil
		})
	}
	if err := working.Wait(); err != nil || served.Load() != 4*100*5 {
		t.Errorf("beside the bad clients %d requests were served: %v", served.Load(), err)
	}

	// Each watcher is served the next event, and nothing before it.
	if _, err := set.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "event"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	reading, _ := errgroup.WithContext(ctx)
	reading.SetLimit(32)
	for i, w := range watches {
		reading.Go(func() error {
			line, err := bufio.NewReaderSize(w.Body, 1024).ReadString('\n')
			if err != nil || !strings.Contains(line, `"type":"ADDED"`) || !strings.Contains(line, `"name":"event"`) {
				return fmt.Errorf("watcher %d: %q, %w", i, line, err)
			}
			return nil
		})
	}
	if err := reading.Wait(); err != nil {
		t.Error(err)
	}
	endWatches()
	for _, w := range watches {
		w.Body.Close()
	}
	await.That(t, "the end of all watches", func() error {
		if n := h.Store.Stats().Watchers - before; n > 0 {
			return fmt.Errorf("%d watchers are open", n)
		}
		return nil
	})
}
