package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/client"
)

// inNamespace dials from a host of the development cluster, so that a client can choose its master, as it can in a real network.
func inNamespace(t *testing.T, host string) func(ctx context.Context, address string) (net.Conn, error) {
	t.Helper()
	name, err := env.Namespace(host)
	if err != nil {
		t.Fatal(err)
	}
	return func(ctx context.Context, address string) (net.Conn, error) {
		type result struct {
			conn net.Conn
			err  error
		}
		done := make(chan result, 1)
		go func() {
			runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
			handle, err := netns.GetFromName(name)
			if err == nil {
				err = netns.Set(handle)
				handle.Close()
			}
			var conn net.Conn
			if err == nil {
				conn, err = (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", address)
			}
			done <- result{conn, err}
		}()
		r := <-done
		return r.conn, r.err
	}
}

// grpcClient is a client that knows one master and discovers the others, as a worker's host sees them, and the masters' names by their
// endpoint.
func grpcClient(t *testing.T) (*client.Client, map[string]string) {
	t.Helper()
	status, _ := clusterStatus(t)
	config := client.Config{Kubeconfig: env.Kubeconfig(), Name: "e2e", Dialer: inNamespace(t, "worker-2"), Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	names := map[string]string{}
	for _, m := range status.Members {
		config.Endpoints = []string{m.APIAddress}
		names[m.APIAddress] = m.Name
	}
	if len(names) != masters {
		t.Fatalf("the masters' addresses are %v", names)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	c, err := client.Dial(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	eventually(t, 20*time.Second, "all masters to be discovered", func() error {
		if err := c.Discover(ctx); err != nil {
			return err
		}
		for _, endpoint := range c.Endpoints() {
			if names[endpoint] == "" {
				return fmt.Errorf("%s is no master's address", endpoint)
			}
		}
		if len(c.Endpoints()) != masters {
			return fmt.Errorf("the endpoints are %v", c.Endpoints())
		}
		return nil
	})
	return c, names
}

// TestGRPCClientOutlivesItsMaster kills the master by which a client reads, writes and watches.
func TestGRPCClientOutlivesItsMaster(t *testing.T) {
	healthy(t)
	ns := namespace(t)
	watcher, names := grpcClient(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	// The watch and the reads use one master, the writes the REST API, which has another forwarder.
	const before, after = 30, 30
	seen := map[string][]string{} // the events of each object
	var longest time.Duration
	synced, done := make(chan struct{}), make(chan error, 1)
	go func() {
		last := time.Now()
		for e, err := range client.Watch[*corev1.ConfigMap](ctx, watcher, ns, client.Labels("of=writer")) {
			if err != nil {
				done <- err
				return
			}
			if e.Type == client.Synced {
				close(synced)
				continue
			}
			longest, last = max(longest, time.Since(last)), time.Now()
			seen[e.Object.Name] = append(seen[e.Object.Name], e.Type.String()+" "+e.ResourceVersion)
			if e.Object.Name == "end" {
				done <- nil
				return
			}
		}
	}()
	select {
	case <-synced:
	case err := <-done:
		t.Fatal(err)
	}
	stored := map[string]string{}
	write := func(name string) {
		t.Helper()
		cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"of": "writer"}}}
		eventually(t, 20*time.Second, "a write", func() error {
			one, cancel := context.WithTimeout(ctx, 2*time.Second)
			defer cancel()
			_, err := env.Set.CoreV1().ConfigMaps(ns).Create(one, cm, metav1.CreateOptions{})
			if err != nil {
				if _, getErr := env.Set.CoreV1().ConfigMaps(ns).Get(one, name, metav1.GetOptions{}); getErr == nil {
					err = nil
				}
			}
			return err
		})
		stored[name] = ""
	}
	for i := range before {
		write(fmt.Sprintf("before-%d", i))
	}

	endpoint := watcher.Endpoint()
	victim := names[endpoint]
	must(t, "dev", "kill", victim)
	killed := time.Now()
	t.Cleanup(func() {
		must(t, "dev", "start", victim)
		healthy(t)
	})
	if _, err := client.Get[*corev1.Namespace](ctx, watcher, "", ns, client.NotOlderThan("0")); err != nil {
		t.Fatal(err)
	}
	local := time.Since(killed)
	if _, err := client.Get[*corev1.Namespace](ctx, watcher, "", ns); err != nil {
		t.Fatal(err)
	}
	t.Logf("killed %s: a read of what a master has after %v, a consistent read after %v", victim, local.Round(time.Millisecond), time.Since(killed).Round(time.Millisecond))
	if watcher.Endpoint() == endpoint {
		t.Errorf("the client is still with %s", victim)
	}
	for i := range after {
		write(fmt.Sprintf("after-%d", i))
	}
	write("end")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	t.Logf("the longest time between two events was %v", longest.Round(time.Millisecond))
	for name := range stored {
		if len(seen[name]) != 1 || !strings.HasPrefix(seen[name][0], "Added ") {
			t.Errorf("%s: %v", name, seen[name])
		}
	}
	if len(seen) != len(stored) {
		t.Errorf("%d objects were seen, %d stored", len(seen), len(stored))
	}
}

// TestGRPCClientLeavesAMachineThatVanished disconnects the network of the client's master: no connection is closed.
func TestGRPCClientLeavesAMachineThatVanished(t *testing.T) {
	healthy(t)
	ns := namespace(t)
	c, names := grpcClient(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var victim string
	var pulled time.Time
	writer, _ := grpcClient(t)
	sign := func(name string) error {
		_, err := client.Create(ctx, writer, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, Labels: map[string]string{"is": "sign"}}})
		if errors.Is(err, client.ErrAlreadyExists) {
			err = nil // by a try whose outcome was unknown
		}
		return err
	}
	for e, err := range client.Watch[*corev1.ConfigMap](ctx, c, ns, client.Labels("is=sign")) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Type == client.Synced {
			if err := sign("first"); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if e.Object.Name == "second" {
			break
		}
		// The stream is open and has nothing to send, so it cannot detect that its peer is not reachable.
		victim = names[c.Endpoint()]
		if err := env.Cable(victim, false); err != nil {
			t.Fatal(err)
		}
		pulled = time.Now()
		t.Cleanup(func() {
			if err := env.Cable(victim, true); err != nil {
				t.Error(err)
			}
			healthy(t)
		})
		eventually(t, 30*time.Second, "a write by another client", func() error { return sign("second") })
		t.Logf("pulled the cable of %s; the write was done after %v", victim, time.Since(pulled).Round(time.Millisecond))
	}
	t.Logf("the watch saw it after %v", time.Since(pulled).Round(time.Millisecond))
	if names[c.Endpoint()] == victim {
		t.Errorf("the client is still with %s", victim)
	}
}

// TestGRPCClientLeavesAMasterThatStandsStill stops a master's process: its connections stay open, and the kernel keeps
// acknowledging data.
func TestGRPCClientLeavesAMasterThatStandsStill(t *testing.T) {
	healthy(t)
	ns := namespace(t)
	watcher, names := grpcClient(t)
	caller, _ := grpcClient(t) // on a connection of its own
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	endpoint := watcher.Endpoint()
	if caller.Endpoint() != endpoint {
		t.Fatalf("the clients are with %s and %s", endpoint, caller.Endpoint())
	}
	var stopped time.Time
	for e, err := range client.Watch[*corev1.ConfigMap](ctx, watcher, ns, client.Named("sign")) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Type == client.Synced {
			pid, err := env.Pid(names[endpoint])
			if err != nil {
				t.Fatal(err)
			}
			if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
					t.Error(err)
				}
				healthy(t)
			})
			stopped = time.Now()
			if _, err := client.Get[*corev1.Namespace](ctx, caller, "", ns); err != nil {
				t.Fatal(err)
			}
			t.Logf("stopped %s; a read was answered after %v", names[endpoint], time.Since(stopped).Round(time.Millisecond))
			if _, err := client.Create(ctx, caller, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "sign"}}); err != nil {
				t.Fatal(err)
			}
		}
		if e.Type == client.Added {
			break
		}
	}
	t.Logf("the watch saw a change after %v", time.Since(stopped).Round(time.Millisecond))
	if watcher.Endpoint() == endpoint || caller.Endpoint() == endpoint {
		t.Errorf("the clients are still with %s", names[endpoint])
	}
}

// TestGRPCTransactionsWhileTheLeaderDies moves a token between two objects by transactions, so that at every instant exactly one
// has it, and kills the leader meanwhile.
func TestGRPCTransactionsWhileTheLeaderDies(t *testing.T) {
	healthy(t)
	ns := namespace(t)
	c, names := grpcClient(t)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	object := func(name string) *corev1.ConfigMap {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}}
	}
	holder, free := "a", "b"
	if _, err := client.Create(ctx, c, object(holder)); err != nil {
		t.Fatal(err)
	}
	var victim string
	var killing sync.WaitGroup
	defer killing.Wait()
	unknown := 0
	for moves := 0; moves < 60; {
		if moves == 20 && victim == "" {
			leader, err := env.Leader()
			if err != nil {
				t.Fatal(err)
			}
			victim = leader
			t.Cleanup(func() {
				must(t, "dev", "start", victim)
				healthy(t)
			})
			killing.Go(func() { // while transactions are on their way
				if _, err := kontiki("dev", "kill", victim); err != nil {
					t.Error(err)
				}
			})
		}
		tx := c.Transaction()
		tx.Delete(client.RefTo(object(holder)))
		tx.Create(object(free))
		_, err := tx.Commit(ctx)
		switch {
		case err == nil:
		case errors.Is(err, client.ErrOutcomeUnknown):
			unknown++
			if _, err := client.Get[*corev1.ConfigMap](ctx, c, ns, free); errors.Is(err, client.ErrNotFound) {
				continue // it was not done; if it still will be, the next is refused
			} else if err != nil {
				t.Fatal(err)
			}
		case errors.Is(err, client.ErrNotFound) && unknown > 0:
			// The transaction of unknown outcome was committed later.
		default:
			t.Fatalf("after %d moves: %v", moves, err)
		}
		holder, free = free, holder
		moves++
		items, _, err := client.List[*corev1.ConfigMap](ctx, c, ns)
		if err != nil {
			t.Fatal(err)
		}
		items = slices.DeleteFunc(items, func(cm *corev1.ConfigMap) bool { return cm.Name != "a" && cm.Name != "b" })
		if len(items) != 1 || items[0].Name != holder {
			t.Fatalf("after %d moves %s must be there alone: %v", moves, holder, items)
		}
	}
	killing.Wait()
	t.Logf("killed %s; of 60 transactions %d had an unknown outcome; the client is with %s", victim, unknown, names[c.Endpoint()])
}

// TestNodeSpeaksGRPC runs a client in another language, which uses only the .proto files.
func TestNodeSpeaksGRPC(t *testing.T) {
	healthy(t)
	ns := namespace(t)
	folder, err := filepath.Abs("../node")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(folder, "node_modules")); err != nil {
		t.Fatal("test/node has no node_modules: `make node` installs them")
	}
	files := t.TempDir()
	vars := append(os.Environ(), fmt.Sprintf("ENDPOINT=127.0.0.1:%d", env.APIPort), "NAMESPACE="+ns)
	for name, data := range map[string][]byte{"CA": env.Config.CAData, "CERT": env.Config.CertData, "KEY": env.Config.KeyData} {
		path := filepath.Join(files, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		vars = append(vars, name+"="+path)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", "test.js")
	cmd.Dir, cmd.Env = folder, vars
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("node test.js: %v\n%s%s", err, errs.String(), out.String())
	}
	type refusal struct {
		Code, Message, Reason, Domain, ResourceVersion string
		Fields                                         []string
		Operation                                      *int
		Status                                         metav1.Status
	}
	var said struct {
		Revision string
		Events   []struct{ Type, Name, Colour, Revision string }
		Listed   struct {
			Names []string
			Pages int
		}
		Errors struct{ Transaction, Conflict, Elsewhere, Invalid, Missing refusal }
	}
	if err := json.Unmarshal(out.Bytes(), &said); err != nil {
		t.Fatalf("%v: %s", err, out.String())
	}
	var events []string
	for _, e := range said.Events {
		events = append(events, strings.TrimPrefix(e.Type, "TYPE_")+" "+e.Name+" "+e.Colour)
	}
	if want := []string{"ADDED first red", "ADDED second green", "MODIFIED first blue", "DELETED second green"}; !slices.Equal(events, want) {
		t.Errorf("node saw %q, not %q", events, want)
	}
	if !slices.Equal(said.Listed.Names, []string{"first", "second"}) || said.Listed.Pages != 2 {
		t.Errorf("node listed %+v", said.Listed)
	}
	check := func(name string, r refusal, code string, reason metav1.StatusReason, fields ...string) {
		t.Helper()
		if r.Code != code || r.Reason != string(reason) || r.Domain != "kontiki" || r.Status.Reason != reason || r.Status.Message == "" || !slices.Equal(r.Fields, fields) {
			t.Errorf("%s: %+v", name, r)
		}
	}
	check("transaction", said.Errors.Transaction, "ABORTED", metav1.StatusReasonConflict, "operations[1].check.resource_version")
	check("conflict", said.Errors.Conflict, "ABORTED", metav1.StatusReasonConflict, "object.data.metadata.resourceVersion")
	check("elsewhere", said.Errors.Elsewhere, "INVALID_ARGUMENT", metav1.StatusReasonBadRequest, "object.data.metadata.namespace")
	check("invalid", said.Errors.Invalid, "INVALID_ARGUMENT", metav1.StatusReasonInvalid, "object.data.metadata.name")
	check("missing", said.Errors.Missing, "NOT_FOUND", metav1.StatusReasonNotFound)
	if tx := said.Errors.Transaction; tx.Operation == nil || *tx.Operation != 1 || !strings.HasPrefix(tx.Message, "operations[1]: ") || tx.ResourceVersion != said.Revision {
		t.Errorf("transaction: %+v", tx)
	}
	if said.Errors.Conflict.ResourceVersion != said.Revision {
		t.Errorf("conflict: %+v, the object is at %s", said.Errors.Conflict, said.Revision)
	}
	if details := said.Errors.Invalid.Status.Details; details == nil || !slices.ContainsFunc(details.Causes, func(c metav1.StatusCause) bool { return c.Field == "metadata.name" }) {
		t.Errorf("invalid: %+v", details)
	}
	// Its successful writes are visible to other clients, the rejected ones are not.
	if colour := kubectl(t, "-n", ns, "get", "configmap", "first", "-o", "jsonpath={.data.colour}"); colour != "blue" {
		t.Errorf("the stored colour is %q", colour)
	}
	if left := kubectl(t, "-n", ns, "get", "configmaps", "-l", "from=node", "-o", "name"); strings.TrimSpace(left) != "configmap/first" {
		t.Errorf("there are %q", left)
	}
}

// TestGRPCExample runs the example as its header says.
func TestGRPCExample(t *testing.T) {
	healthy(t)
	out, err := exec.Command("go", "run", "../../examples/grpc", "-kubeconfig", env.Kubeconfig()).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	contains(t, string(out), "connected to 127.0.0.1:", "made at one instant", "refused, as it should be: transaction: operation 1, check ConfigMap default/grpc-example-", "both are removed")
}
