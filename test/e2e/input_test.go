package e2e_test

import (
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

func TestBadInputGetsAClearErrorAndTheServerStaysUp(t *testing.T) {
	healthy(t)
	pod := func(spec string) string {
		return `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"bad"},"spec":` + spec + `}`
	}
	for _, c := range []struct{ name, manifest, want string }{
		{"unknown field", pod(`{"containers":[{"name":"c","image":"i","imagge":"x"}]}`), `unknown field "spec.containers[0].imagge"`},
		{"wrong type", pod(`{"containers":"many"}`), `cannot be handled as a Pod`},
		{"impossible port", pod(`{"containers":[{"name":"c","image":"i","ports":[{"containerPort":70000}]}]}`), `spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535`},
		{"unknown kind", `{"apiVersion":"v1","kind":"Gadget","metadata":{"name":"bad"}}`, `no matches for kind`},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, err := kontikiWith(strings.NewReader(c.manifest), "kubectl", "create", "--validate=strict", "-f", "-")
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s %v, want %q", out, err, c.want)
			}
		})
	}
	t.Run("oversized object", func(t *testing.T) {
		big := `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"bad"},"spec":{"containers":[{"name":"c","image":"i","args":["` + strings.Repeat("y", 1600<<10) + `"]}]}}`
		_, err := kontikiWith(strings.NewReader(big), "kubectl", "create", "-f", "-")
		if err == nil || !strings.Contains(err.Error(), "the limit is 1572864") {
			t.Errorf("%.500v", err)
		}
	})
	t.Run("wrong bearer token", func(t *testing.T) {
		_, err := kontiki("kubectl", "get", "pods", "--token=nonsense", "--kubeconfig=/dev/null", "--insecure-skip-tls-verify",
			fmt.Sprintf("--server=https://127.0.0.1:%d", env.APIPort))
		if err == nil || !strings.Contains(err.Error(), "Unauthorized") && !strings.Contains(err.Error(), "logged in") {
			t.Errorf("%v", err)
		}
	})
	t.Run("anonymous write", func(t *testing.T) {
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
		response, err := client.Post(fmt.Sprintf("https://127.0.0.1:%d/api/v1/namespaces/default/pods", env.APIPort), "application/json", strings.NewReader(pod(`{}`)))
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusUnauthorized {
			t.Errorf("status %s", response.Status)
		}
	})
	t.Run("plain HTTP on the TLS port", func(t *testing.T) {
		response, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/version", env.APIPort))
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil || response.StatusCode != http.StatusBadRequest || !strings.Contains(string(body), "HTTP request to an HTTPS server") {
			t.Errorf("%s %s %v", response.Status, body, err)
		}
	})
	t.Run("pings too often", func(t *testing.T) {
		conn, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", env.APIPort), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{http2.NextProtoTLS}})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil { // nothing else ends it without a GOAWAY
			t.Fatal(err)
		}
		io.WriteString(conn, http2.ClientPreface)
		framer := http2.NewFramer(conn, conn)
		framer.WriteSettings()
		for range 10 {
			framer.WritePing(false, [8]byte{})
		}
		for {
			frame, err := framer.ReadFrame()
			if err != nil {
				t.Fatalf("no GOAWAY: %v", err)
			}
			switch f := frame.(type) {
			case *http2.SettingsFrame:
				if n, ok := f.Value(http2.SettingMaxConcurrentStreams); !f.IsAck() && (!ok || n != 1000) {
					t.Errorf("streams of one connection are limited to %d, %v", n, ok)
				}
			case *http2.GoAwayFrame:
				if f.ErrCode != http2.ErrCodeEnhanceYourCalm || string(f.DebugData()) != "too_many_pings" {
					t.Errorf("%v %q", f, f.DebugData())
				}
				return
			}
		}
	})
	t.Run("wrong join token", func(t *testing.T) {
		out, err := inHost(t, "worker-1", env.Kontiki, "agent", "--name", "stranger", "--node-ip", "10.89.0.101", "--data-dir", t.TempDir(),
			"--join", "10.89.0.11:6444", "--token", "K10"+strings.Repeat("0", 64)+"::worker:00000000.00000000000000000000000000000000")
		if err == nil || !strings.Contains(out, "token") || !strings.Contains(out, "kontiki token create") && !strings.Contains(out, "another cluster") {
			t.Errorf("%v: %s", err, out)
		}
	})
	t.Run("garbage on the raft port", func(t *testing.T) {
		garbage := make([]byte, 4096)
		rand.Read(garbage)
		for _, payload := range []string{string(garbage), "GET / HTTP/1.1\r\nHost: x\r\n\r\n", ""} {
			cmd := exec.Command("ip", "netns", "exec", hostNamespace(t, "worker-1"), "timeout", "3", "bash", "-c", "cat > /dev/tcp/10.89.0.11/6444")
			cmd.Stdin = strings.NewReader(payload)
			cmd.Run() // the port may close the connection on us
		}
	})
	eventually(t, 20*time.Second, "the cluster to be well after all that", func() error {
		_, err := kontiki("cluster", "status")
		return err
	})
	if out, err := kontiki("kubectl", "get", "pod", "bad"); err == nil {
		t.Errorf("a refused pod exists: %s", out)
	}
}

func hostNamespace(t *testing.T, host string) string {
	t.Helper()
	name, err := env.Namespace(host)
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// inHost runs a command on a host of the cluster.
func inHost(t *testing.T, host string, command ...string) (string, error) {
	t.Helper()
	out, err := exec.Command("ip", append([]string{"netns", "exec", hostNamespace(t, host)}, command...)...).CombinedOutput()
	return string(out), err
}
