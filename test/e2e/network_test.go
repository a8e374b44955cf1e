package e2e_test

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func in(namespace, manifest string) string {
	return strings.Replace(manifest, "metadata: {", "metadata: {namespace: "+namespace+", ", 1)
}

func service(name, selector string) string {
	return fmt.Sprintf("\n---\napiVersion: v1\nkind: Service\nmetadata: {name: %s}\nspec:\n  selector: {app: %s}\n  ports: [{port: 80, targetPort: 8080}]\n", name, selector)
}

func TestAPodReachesAServiceByNameOnTheOtherHost(t *testing.T) {
	ns := namespace(t)
	apply(t, in(ns, toolPod("server", "worker-2", "tools", "serve")))
	apply(t, in(ns, strings.TrimPrefix(service("web", "server"), "\n---\n")))
	apply(t, in(ns, toolPod("client", "worker-1", "tools", "sleep")))
	apply(t, in(ns, toolPod("neighbour", "worker-2", "tools", "sleep")))
	for _, name := range []string{"server", "client", "neighbour"} {
		kubectl(t, "-n", ns, "wait", "--for=condition=Ready", "pod/"+name, "--timeout=60s")
	}
	for _, client := range []string{"client", "neighbour", "server"} {
		for _, host := range []string{"web", "web." + ns, "web." + ns + ".svc.cluster.local"} {
			eventually(t, 20*time.Second, client+" to reach "+host, func() error {
				out, err := kontiki("kubectl", "-n", ns, "exec", client, "--", "tools", "get", "http://"+host+"/")
				if err == nil && strings.TrimSpace(out) != "server" {
					err = fmt.Errorf("it answers %q", out)
				}
				return err
			})
		}
	}
	out := kubectl(t, "-n", ns, "exec", "client", "--", "tools", "lookup", "kubernetes.default")
	if strings.TrimSpace(out) != "10.96.0.1" {
		t.Errorf("kubernetes.default is %q", out)
	}
	if out, err := kontiki("kubectl", "-n", ns, "exec", "client", "--", "tools", "lookup", "nothing."+ns+".svc.cluster.local"); err == nil {
		t.Errorf("a name that is not there has addresses: %s", out)
	}
	for _, path := range []string{"pods/server:8080/proxy/", "services/web/proxy/", "services/http:web:80/proxy/x?y=z"} {
		if out := kubectl(t, "get", "--raw", "/api/v1/namespaces/"+ns+"/"+path); out != "server" {
			t.Errorf("%s answers %q", path, out)
		}
	}
	// The API is reachable from pods, with the credentials that are mounted.
	out = kubectl(t, "-n", ns, "exec", "client", "--", "cat", "/var/run/secrets/kubernetes.io/serviceaccount/namespace")
	if out != ns {
		t.Errorf("mounted namespace: %q", out)
	}
}
