package server

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/kontiki/kontiki/test/gathered"
)

func TestRequestsOfClientsAreCounted(t *testing.T) {
	m := newClientMetrics()
	m.register()
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	set, err := kubernetes.NewForConfig(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := set.CoreV1().Pods("a").Get(t.Context(), "b", metav1.GetOptions{}); err == nil {
		t.Fatal("the request was answered")
	}
	got, host := gathered.Values(t, m), strings.TrimPrefix(server.URL, "http://")
	if n := got[`rest_client_requests_total{code="404",host="`+host+`",method="GET"}`]; n != 1 {
		t.Errorf("the request was counted %v times: %v", n, got)
	}
	if n := got[`rest_client_request_duration_seconds{host="`+host+`",verb="GET"}`]; n != 1 {
		t.Errorf("its duration was counted %v times: %v", n, got)
	}
}
