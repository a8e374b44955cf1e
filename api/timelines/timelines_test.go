package timelines

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/internal/timeline"
)

// serve returns a connection to a server with the services that register adds.
func serve(t *testing.T, register func(grpc.ServiceRegistrar)) grpc.ClientConnInterface {
	t.Helper()
	listener, server := bufconn.Listen(1<<20), grpc.NewServer()
	register(server)
	go server.Serve(listener)
	t.Cleanup(server.Stop)
	conn, err := grpc.NewClient("passthrough:///master", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// Any master tells what all know; those that do not answer are named with the reason.
func TestAllMastersAreAsked(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "a", UID: "u"}, Status: corev1.PodStatus{Phase: corev1.PodPending}}
	local, remote := timeline.New(nil), timeline.New(nil)
	began := time.Now().Add(-time.Second)
	local.Add(timeline.PodOf(pod), timeline.Step{Name: timeline.Admit, Began: began, Ended: began.Add(time.Millisecond)})
	bound := timeline.Step{Name: timeline.Bind, Container: "c", Began: began, Ended: began.Add(2 * time.Millisecond), Detail: "to n", Error: "no"}
	remote.Add(timeline.PodOf(pod), bound)
	other := New(Config{Local: remote, Name: "master-2"})
	conns := map[string]grpc.ClientConnInterface{"two": serve(t, other.Register), "old": serve(t, func(grpc.ServiceRegistrar) {})}
	g := New(Config{Local: local, Name: "master-1", Own: "one", Masters: func() []string { return []string{"one", "two", "old", "gone"} },
		Connect: func(address string) (grpc.ClientConnInterface, error) {
			if conn := conns[address]; conn != nil {
				return conn, nil
			}
			return nil, errors.New("no route")
		}})
	d := g.Of(t.Context(), pod)
	if d.UID != "u" || d.Ready || len(d.Sources) != 4 {
		t.Fatalf("%+v", d)
	}
	if s := d.Sources[0]; s.Host != "master-1" || len(s.Steps) != 1 || s.Since.IsZero() {
		t.Errorf("own: %+v", s)
	}
	if s := d.Sources[1]; s.Host != "master-2" || s.Error != "" || len(s.Steps) != 1 || !s.Steps[0].Began.Equal(bound.Began) || !s.Steps[0].Ended.Equal(bound.Ended) ||
		s.Steps[0].Name != bound.Name || s.Steps[0].Detail != "to n" || s.Steps[0].Error != "no" || s.Steps[0].Container != "c" {
		t.Errorf("the other's: %+v", s)
	}
	if s := d.Sources[2]; s.Error != "it runs a version that keeps no timelines" {
		t.Errorf("of an earlier version: %+v", s)
	}
	if s := d.Sources[3]; s.Error != "no route" {
		t.Errorf("of one that is gone: %+v", s)
	}
}
