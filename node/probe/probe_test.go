package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func TestHTTP(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Header.Get("X-Test")+" "+r.Host+" "+r.UserAgent())
	})
	mux.HandleFunc("/bad", func(w http.ResponseWriter, r *http.Request) { http.Error(w, "secret body", 500) })
	mux.HandleFunc("/away", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://example.invalid/", http.StatusFound)
	})
	mux.HandleFunc("/here", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/ok", http.StatusFound) })
	hang := make(chan struct{})
	mux.HandleFunc("/hang", func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-hang:
		case <-r.Context().Done():
		}
	})
	srv := httptest.NewServer(mux)
	defer srv.Close()
	defer close(hang)
	secure := httptest.NewTLSServer(mux)
	defer secure.Close()
	port := func(s *httptest.Server) int32 { return int32(s.Listener.Addr().(*net.TCPAddr).Port) }
	c := &corev1.Container{Name: "c", Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: port(srv)}}}
	for _, tc := range []struct {
		name   string
		action corev1.HTTPGetAction
		result Result
		output string
	}{
		{"success", corev1.HTTPGetAction{Path: "/ok", Port: intstr.FromInt32(port(srv)), HTTPHeaders: []corev1.HTTPHeader{{Name: "X-Test", Value: "yes"}, {Name: "Host", Value: "a.b"}}}, Success, "yes a.b kube-probe/1.37"},
		{"named port", corev1.HTTPGetAction{Path: "/ok", Port: intstr.FromString("web")}, Success, ""},
		{"failure", corev1.HTTPGetAction{Path: "/bad", Port: intstr.FromInt32(port(srv))}, Failure, "HTTP probe failed with statuscode: 500"},
		{"redirect elsewhere", corev1.HTTPGetAction{Path: "/away", Port: intstr.FromInt32(port(srv))}, Warning, "Probe terminated redirects"},
		{"redirect here", corev1.HTTPGetAction{Path: "/here", Port: intstr.FromInt32(port(srv))}, Success, ""},
		{"https", corev1.HTTPGetAction{Path: "/ok", Port: intstr.FromInt32(port(secure)), Scheme: corev1.URISchemeHTTPS}, Success, ""},
		{"timeout", corev1.HTTPGetAction{Path: "/hang", Port: intstr.FromInt32(port(srv))}, Failure, "Client.Timeout exceeded"},
		{"refused", corev1.HTTPGetAction{Path: "/", Port: intstr.FromInt32(1)}, Failure, "connection refused"},
		{"no such port", corev1.HTTPGetAction{Path: "/", Port: intstr.FromString("none")}, Unknown, ""},
	} {
		r, out, err := Run(context.Background(), &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &tc.action}, TimeoutSeconds: 1}, Target{Container: c, PodIP: "127.0.0.1"})
		if r != tc.result || !strings.Contains(out, tc.output) || (r == Unknown) != (err != nil) {
			t.Errorf("%s: %s %q %v, want %s %q", tc.name, r, out, err, tc.result, tc.output)
		}
	}
}

func TestExec(t *testing.T) {
	for _, tc := range []struct {
		name   string
		exec   ExecFunc
		result Result
		output string
	}{
		{"success", func(_ context.Context, _ []string, w io.Writer) (int, error) { fmt.Fprint(w, "fine"); return 0, nil }, Success, "fine"},
		{"failure", func(_ context.Context, _ []string, w io.Writer) (int, error) { fmt.Fprint(w, "broken"); return 2, nil }, Failure, "broken"},
		{"timeout", func(ctx context.Context, _ []string, _ io.Writer) (int, error) { <-ctx.Done(); return -1, ctx.Err() }, Failure, `command timed out: "a b" timed out after 1s`},
		{"error", func(context.Context, []string, io.Writer) (int, error) { return -1, errors.New("no") }, Unknown, ""},
		{"long output", func(_ context.Context, _ []string, w io.Writer) (int, error) {
			for range 1000 {
				fmt.Fprint(w, strings.Repeat("x", 1000))
			}
			return 0, nil
		}, Success, strings.Repeat("x", maxBody)},
	} {
		r, out, err := Exec(context.Background(), []string{"a", "b"}, time.Second, tc.exec)
		if r != tc.result || out != tc.output || (r == Unknown) != (err != nil) {
			t.Errorf("%s: %s %.60q %v", tc.name, r, out, err)
		}
	}
}

func TestTCPAndGRPC(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	h := health.NewServer()
	grpc_health_v1.RegisterHealthServer(srv, h)
	h.SetServingStatus("up", grpc_health_v1.HealthCheckResponse_SERVING)
	h.SetServingStatus("down", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	go srv.Serve(l)
	defer srv.Stop()
	bare, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	plain := grpc.NewServer()
	go plain.Serve(bare)
	defer plain.Stop()
	port := l.Addr().(*net.TCPAddr).Port
	grpcProbe := func(port int, service string) corev1.ProbeHandler {
		return corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: int32(port), Service: &service}}
	}
	for _, tc := range []struct {
		name   string
		h      corev1.ProbeHandler
		result Result
		output string
	}{
		{"tcp open", corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromString(strconv.Itoa(port))}}, Success, ""},
		{"tcp closed", corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(1)}}, Failure, "connection refused"},
		{"grpc serving", grpcProbe(port, "up"), Success, "service healthy"},
		{"grpc not serving", grpcProbe(port, "down"), Failure, `service unhealthy (responded with "NOT_SERVING")`},
		{"grpc unknown service", grpcProbe(port, "none"), Failure, "error: health rpc probe failed"},
		{"grpc without health", grpcProbe(bare.Addr().(*net.TCPAddr).Port, ""), Failure, "does not implement the grpc health protocol"},
		{"grpc closed", grpcProbe(1, ""), Failure, "failed to connect service"},
	} {
		r, out, err := Run(context.Background(), &corev1.Probe{ProbeHandler: tc.h, TimeoutSeconds: 2}, Target{Container: &corev1.Container{}, PodIP: "127.0.0.1"})
		if err != nil || r != tc.result || !strings.Contains(out, tc.output) {
			t.Errorf("%s: %s %q %v, want %s %q", tc.name, r, out, err, tc.result, tc.output)
		}
	}
}
