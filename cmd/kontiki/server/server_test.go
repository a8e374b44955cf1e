package server

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"

	"github.com/kontiki/kontiki/cmd/kontiki/process"
)

func TestRanges(t *testing.T) {
	for _, c := range []struct{ service, pod, dns, wantService, wantPod, wantDNS string }{
		{"10.96.0.0/16", "10.244.0.0/16", "", "10.96.0.0/16", "10.244.0.0/16", "10.96.0.10"},
		{"10.96.5.7/16", "10.244.1.2/16", "", "10.96.0.0/16", "10.244.0.0/16", "10.96.0.10"}, // host bits are cut off
		{"192.168.7.16/28", "10.0.0.0/8", "", "192.168.7.16/28", "10.0.0.0/8", "192.168.7.26"},
		{"10.96.0.0/12", "10.244.0.0/24", "10.96.0.53", "10.96.0.0/12", "10.244.0.0/24", "10.96.0.53"},
	} {
		r, err := (&serverOptions{serviceCIDR: c.service, podCIDR: c.pod, clusterDNS: c.dns}).ranges()
		if err != nil {
			t.Errorf("%+v: %v", c, err)
			continue
		}
		if r.service.String() != c.wantService || r.pod.String() != c.wantPod || r.dns.String() != c.wantDNS {
			t.Errorf("%+v: got %+v", c, r)
		}
	}
}

func TestRangesAreRefused(t *testing.T) {
	const service, pod = "10.96.0.0/16", "10.244.0.0/16"
	for _, c := range []struct{ service, pod, dns, want string }{
		{"", pod, "", "--service-cidr"},
		{"10.96.0.0", pod, "", "--service-cidr"},
		{"fd00::/108", pod, "", "--service-cidr"},
		{"::ffff:10.96.0.0/112", pod, "", "--service-cidr"},
		{"10.0.0.0/11", pod, "", "--service-cidr"},
		{"10.96.0.0/29", pod, "", "--service-cidr"}, // too small for the DNS address
		{service, "10.244.0.0/25", "", "--pod-cidr"},
		{service, "10.0.0.0/7", "", "--pod-cidr"},
		{service, "pods", "", "--pod-cidr"},
		{service, "10.96.128.0/24", "", "--service-cidr 10.96.0.0/16 and --pod-cidr 10.96.128.0/24 overlap"},
		{service, "10.0.0.0/8", "", "overlap"},
		{service, pod, "10.97.0.10", "--cluster-dns"},
		{service, pod, "dns", "--cluster-dns"},
		{service, pod, "fd00::a", "--cluster-dns"},
	} {
		r, err := (&serverOptions{serviceCIDR: c.service, podCIDR: c.pod, clusterDNS: c.dns}).ranges()
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: got %+v, %v", c, r, err)
		}
	}
}

func TestParseRangeNamesItsBounds(t *testing.T) {
	for _, ok := range []string{"10.0.0.0/12", "10.0.0.0/28"} {
		if p, err := parseRange("--x", ok, 12, 28); err != nil || p.String() != ok {
			t.Errorf("%s: %v, %v", ok, p, err)
		}
	}
	for _, bad := range []string{"10.0.0.0/11", "10.0.0.0/29", "10.0.0.0/33", "10.0.0.0/", "/16"} {
		_, err := parseRange("--x", bad, 12, 28)
		if err == nil || !strings.Contains(err.Error(), "--x: \""+bad+"\"") || !strings.Contains(err.Error(), "from /12 to /28") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestVersionIsOneThatClientsParse(t *testing.T) {
	info := process.VersionInfo()
	parsed, err := version.ParseSemantic(info.GitVersion)
	if err != nil {
		t.Fatalf("semantic version: %v", err)
	}
	if parsed.Major() != 1 || parsed.Minor() != 37 || parsed.PreRelease() != "" || !strings.HasPrefix(parsed.BuildMetadata(), "kontiki") {
		t.Errorf("%s: major %d, minor %d, pre-release %q, metadata %q", info.GitVersion, parsed.Major(), parsed.Minor(), parsed.PreRelease(), parsed.BuildMetadata())
	}
	if info.Major != "1" || info.Minor != "37" {
		t.Errorf("major %q, minor %q", info.Major, info.Minor)
	}
	if cmp, err := parsed.Compare("v1.37.2"); err != nil || cmp != 0 { // metadata does not count
		t.Errorf("compared with v1.37.2: %d, %v", cmp, err)
	}
	// As client-go and kubectl read the file.
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { json.NewEncoder(w).Encode(info) }))
	defer server.Close()
	client, err := discovery.NewDiscoveryClientForConfig(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	read, err := client.ServerVersion()
	if err != nil || *read != info {
		t.Fatalf("client-go reads %+v, %v", read, err)
	}
	if _, err := version.ParseGeneric(read.String()); err != nil {
		t.Errorf("generic version: %v", err)
	}
}

func TestLogLevel(t *testing.T) {
	if _, err := process.NewLogger("loud"); err == nil || !strings.Contains(err.Error(), "--log-level") {
		t.Errorf("the error is %v", err)
	}
}
