package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/cluster"
	"github.com/kontiki/kontiki/cluster/backup"
	"github.com/kontiki/kontiki/cluster/mtls"
	"github.com/kontiki/kontiki/cmd/kontiki/admin"
	"github.com/kontiki/kontiki/internal/sealed"
	"github.com/kontiki/kontiki/test/await"
)

// marker is in every Secret of these tests.
const marker = "correct-horse-battery-staple"

// overheard is the machine's network, which remembers whether the marker was sent.
type overheard struct {
	mtls.Machine
	bytes atomic.Int64
	found atomic.Bool
}

type overheardConn struct {
	net.Conn
	o *overheard
}

func (o *overheard) see(b []byte) {
	o.bytes.Add(int64(len(b)))
	if bytes.Contains(b, []byte(marker[:12])) || bytes.Contains(b, []byte(marker[12:])) {
		o.found.Store(true)
	}
}

func (c overheardConn) Write(b []byte) (int, error) {
	c.o.see(b)
	return c.Conn.Write(b)
}

func (o *overheard) Dial(ctx context.Context, address string) (net.Conn, error) {
	conn, err := o.Machine.Dial(ctx, address)
	if err != nil {
		return nil, err
	}
	return overheardConn{conn, o}, nil
}

type overheardListener struct {
	net.Listener
	o *overheard
}

func (l overheardListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return overheardConn{conn, l.o}, nil
}

func (o *overheard) Listen(address string) (net.Listener, error) {
	l, err := o.Machine.Listen(address)
	if err != nil {
		return nil, err
	}
	return overheardListener{l, o}, nil
}

type overheardGossip struct {
	memberlist.Transport
	o *overheard
}

func (g overheardGossip) WriteTo(b []byte, address string) (time.Time, error) {
	g.o.see(b)
	return g.Transport.WriteTo(b, address)
}

func (o *overheard) Gossip(address string) (memberlist.Transport, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return nil, err
	}
	transport, err := memberlist.NewNetTransport(&memberlist.NetTransportConfig{BindAddrs: []string{host}, BindPort: n, Logger: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)})
	if err != nil {
		return nil, err
	}
	return overheardGossip{transport, o}, nil
}

// startThree starts three masters in this process; change may change the options of each.
func startThree(t *testing.T, change func(*serverOptions, *cluster.Config)) []*testMaster {
	t.Helper()
	all := []*testMaster{startMaster(t, change)}
	for i := range 2 {
		token, err := all[0].cluster.CreateToken(t.Context(), mtls.RoleMaster, time.Hour, "")
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, startMaster(t, change, func(o *serverOptions, cfg *cluster.Config) {
			o.name = fmt.Sprintf("master-%d", i+2)
			cfg.Name, cfg.Bootstrap, cfg.Join, cfg.Token = o.name, false, []string{all[0].cluster.Address()}, token
		}))
	}
	return all
}

func (m *testMaster) kubeconfig() string { return filepath.Join(m.options.dataDir, "admin.kubeconfig") }

// command runs a command of the program with the administrator's kubeconfig, and returns what it prints.
func (m *testMaster) command(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var err error
	out := captureStdout(t, func() {
		root := administration()
		root.SetArgs(append(args, "--kubeconfig", m.kubeconfig()))
		err = root.ExecuteContext(t.Context())
	})
	return out, err
}

// nowhere fails the test if a file below one of the masters' directories contains the marker.
func nowhere(t *testing.T, when string, masters []*testMaster, network *overheard) {
	t.Helper()
	files := 0
	for _, m := range masters {
		err := filepath.WalkDir(m.options.dataDir, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.Type().IsRegular() {
				return nil // it was removed meanwhile
			}
			data, err := os.ReadFile(path)
			if err != nil {
				return nil
			}
			files++
			if bytes.Contains(data, []byte(marker)) {
				t.Errorf("%s, %s contains a Secret", when, path)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if files < 2*len(masters) {
		t.Errorf("%s, only %d files were found", when, files)
	}
	if network.found.Load() || network.bytes.Load() == 0 {
		t.Errorf("%s, the network carried a Secret: %v, of %d bytes", when, network.found.Load(), network.bytes.Load())
	}
}

func secretKeys(t *testing.T, m *testMaster) (s cluster.SecretKeys) {
	t.Helper()
	out, err := m.command(t, "secrets", "status", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// TestSecretsAreReencryptedWhileTheClusterWorks rotates the key of Secrets under writes, and changes the leader in the middle. Nobody who
// does not write sees a change, every Secret remains readable at every master, and the old key goes when nothing needs it.
func TestSecretsAreReencryptedWhileTheClusterWorks(t *testing.T) {
	network := &overheard{}
	masters := startThree(t, func(o *serverOptions, cfg *cluster.Config) {
		cfg.Network, cfg.Timings.SecretHistory = network, time.Second
		// The test takes the backups itself.
		cfg.Backups = backup.Schedule{Dir: filepath.Join(o.dataDir, "snapshots"), Keep: 5}
		cfg.DataDir = o.dataDir
	})
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	const still, busy = 400, 8
	want := map[string]string{}
	put := func(set *kubernetes.Clientset, name, value string, exists bool) (*corev1.Secret, error) {
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, StringData: map[string]string{"x": value}}
		if exists {
			return set.CoreV1().Secrets("default").Update(ctx, secret, metav1.UpdateOptions{})
		}
		return set.CoreV1().Secrets("default").Create(ctx, secret, metav1.CreateOptions{})
	}
	revisions := map[string]string{}
	for i := range still {
		name := fmt.Sprintf("still-%d", i)
		want[name] = fmt.Sprint(marker, i)
		made, err := put(masters[i%3].admin, name, want[name], false)
		if err != nil {
			t.Fatal(err)
		}
		revisions[name] = made.ResourceVersion
	}
	// The copy of a deleted Secret is re-encrypted too.
	deleted, err := put(masters[0].admin, "deleted", marker, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := masters[0].admin.CoreV1().Secrets("default").Delete(ctx, "deleted", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	before := masters[0].cluster.Identity().SealingKey()
	backupOf := filepath.Join(masters[1].options.dataDir, "snapshots", "kontiki-20200101T000000Z.backup")
	if err := os.MkdirAll(filepath.Dir(backupOf), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := masters[1].cluster.Backups().SaveTo(ctx, backupOf); err != nil {
		t.Fatal(err)
	}
	nowhere(t, "before the rotation", masters, network)

	list, err := masters[2].admin.CoreV1().Secrets("default").List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil {
		t.Fatal(err)
	}
	watch, err := masters[2].admin.CoreV1().Secrets("default").Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Stop()
	watched := make(chan string, 1)
	go func() {
		defer close(watched)
		for e := range watch.ResultChan() {
			secret, ok := e.Object.(*corev1.Secret)
			if !ok || !strings.HasPrefix(secret.Name, "busy-") {
				watched <- fmt.Sprintf("%s %v", e.Type, e.Object)
				return
			}
			if secret.Name == "busy-last" {
				return
			}
		}
		watched <- "the watch ended"
	}()

	writing, stop := context.WithCancel(ctx)
	defer stop()
	var writers sync.WaitGroup
	var writes atomic.Int64
	last := make([]string, busy)
	for i := range busy {
		writers.Go(func() {
			name, set := fmt.Sprintf("busy-%d", i), masters[i%3].admin
			for n := 0; writing.Err() == nil; n++ {
				value := fmt.Sprintf("%s %d %d", marker, i, n)
				_, err := put(set, name, value, n > 0)
				switch {
				case err == nil:
					last[i] = value
					writes.Add(1)
				case apierrors.IsTimeout(err), apierrors.IsServiceUnavailable(err), apierrors.IsAlreadyExists(err):
					last[i] = "" // the leader was lost: either value may be stored
				default:
					t.Errorf("write %s: %v", name, err)
					return
				}
			}
		})
	}
	await.That(t, "writes", func() error {
		if writes.Load() < 4*busy {
			return errors.New("few")
		}
		return nil
	})

	rotated := make(chan error, 1)
	go func() {
		rotated <- masters[1].admin.CoreV1().RESTClient().Post().AbsPath(admin.SecretsPath).Body([]byte(`{"action": "rotate"}`)).Do(ctx).Error()
	}()
	if err := <-rotated; err != nil {
		t.Fatal(err)
	}
	await.That(t, "the new key to be used", func() error {
		if id := masters[0].cluster.Identity(); id.NextSecretKey != "" || id.SealingKey() == before {
			return errors.New("not yet")
		}
		return nil
	})
	for range 2 { // in the middle of the re-encryption
		if _, err := masters[0].cluster.TransferLeadership(ctx, ""); err != nil {
			t.Logf("transfer: %v", err)
		}
	}
	now := masters[0].cluster.Identity().SealingKey()
	await.That(t, "everything to be encrypted with the new key", func() error {
		view, err := masters[2].cluster.Consistent(ctx)
		if err != nil {
			return err
		}
		if counts := sealed.Count(view); counts[before] > 0 || counts[now] < still {
			return fmt.Errorf("%v", counts)
		}
		return nil
	})
	stop()
	writers.Wait()
	if _, err := put(masters[0].admin, "busy-last", marker, false); err != nil {
		t.Fatal(err)
	}
	for wrong := range watched {
		t.Errorf("a watcher was told of a re-encryption: %s", wrong)
	}
	await.That(t, "the key to be kept only for a backup", func() error {
		s := secretKeys(t, masters[0])
		for _, k := range s.Keys {
			if k.Name == before && strings.Contains(k.Waiting, "1 backups of the master master-2") {
				return nil
			}
		}
		return fmt.Errorf("%+v", s)
	})
	for i, m := range masters {
		secrets, err := m.admin.CoreV1().Secrets("default").List(ctx, metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		seen := 0
		for _, s := range secrets.Items {
			if value, ok := want[s.Name]; ok {
				seen++
				if string(s.Data["x"]) != value || s.ResourceVersion != revisions[s.Name] {
					t.Errorf("at master %d %s is %q at %s, want %q at %s", i+1, s.Name, s.Data["x"], s.ResourceVersion, value, revisions[s.Name])
				}
			}
			if n, err := strconv.Atoi(strings.TrimPrefix(s.Name, "busy-")); err == nil && strings.HasPrefix(s.Name, "busy-") && last[n] != "" && string(s.Data["x"]) != last[n] {
				t.Errorf("at master %d %s is %q, the last acknowledged write was %q", i+1, s.Name, s.Data["x"], last[n])
			}
		}
		if seen != still {
			t.Errorf("at master %d: %d of %d secrets", i+1, seen, still)
		}
	}
	nowhere(t, "after the rotation", masters, network)

	if out, err := masters[0].command(t, "secrets", "rotate", "--finish"); err != nil || strings.Contains(out, before) {
		t.Fatalf("drop the old key: %v: %s", err, out)
	}
	for _, m := range masters {
		await.That(t, "the old key to be gone from "+m.options.name, func() error {
			if slices.Contains(m.cluster.Identity().OldSecretKeys(), before) || len(m.cluster.Identity().SecretKeys) != 1 {
				return errors.New("it is there")
			}
			return nil
		})
	}
	// Every version that the history still has can be decrypted, and the backup is refused, with the reason.
	if _, err := masters[2].admin.CoreV1().Secrets("default").List(ctx, metav1.ListOptions{}); err != nil {
		t.Error(err)
	}
	if old, err := masters[2].admin.CoreV1().Secrets("default").Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion}); err != nil {
		t.Errorf("a watch from before the key was dropped: %v", err)
	} else if e := <-old.ResultChan(); !apierrors.IsResourceExpired(apierrors.FromObject(e.Object)) {
		t.Errorf("a watch from before the key was dropped: %v", e)
	}
	file, err := os.Open(backupOf)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := masters[0].cluster.Backups().Restore(ctx, file, false); !errors.Is(err, backup.ErrForeign) || !strings.Contains(err.Error(), before) {
		t.Errorf("restore a backup whose key was dropped: %v", err)
	}
	// The command by itself: it makes a key, and ends when everything is encrypted with it.
	out, err := masters[2].command(t, "secrets", "rotate")
	if err != nil || !strings.Contains(out, "encrypts") {
		t.Errorf("rotate: %v: %s", err, out)
	}
	if s := secretKeys(t, masters[1]); s.Stale != 0 || s.Current == now || s.Objects < still {
		t.Errorf("after another rotation: %+v", s)
	}
	copied, err := masters[1].admin.CoreV1().RESTClient().Get().AbsPath(objects.DeletedPath, string(deleted.UID)).Do(ctx).Get()
	if err != nil || string(copied.(*corev1.Secret).Data["x"]) != marker {
		t.Errorf("the deleted secret: %v %v", copied, err)
	}
	nowhere(t, "at the end", masters, network)
}

// TestWhoMayRotateSecrets: an operator may, a viewer may only look, and nobody else may either.
func TestWhoMayRotateSecrets(t *testing.T) {
	m := startMaster(t)
	for user, role := range map[string]string{"op": "kontiki:operator", "view": "kontiki:viewer"} {
		_, err := m.admin.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: user}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
			Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: user}},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	ask := func(user, method, body string) int {
		t.Helper()
		r := m.admin.CoreV1().RESTClient().Verb(method).AbsPath(admin.SecretsPath).SetHeader("Impersonate-User", user)
		if body != "" {
			r = r.Body([]byte(body))
		}
		code := 0
		r.Do(t.Context()).StatusCode(&code)
		return code
	}
	await.That(t, "the roles", func() error {
		if view, op := ask("view", http.MethodGet, ""), ask("op", http.MethodGet, ""); view != http.StatusOK || op != http.StatusOK {
			return fmt.Errorf("%d, %d", view, op)
		}
		return nil
	})
	for _, x := range []struct {
		user, method, body string
		want               int
	}{
		{"nobody", http.MethodGet, "", http.StatusForbidden}, {"nobody", http.MethodPost, `{"action":"rotate"}`, http.StatusForbidden},
		{"view", http.MethodPost, `{"action":"rotate"}`, http.StatusForbidden}, {"view", http.MethodPost, `{"action":"finish"}`, http.StatusForbidden},
		{"op", http.MethodGet, "", http.StatusOK}, {"op", http.MethodPost, `{"action":"finish"}`, http.StatusConflict},
		{"op", http.MethodPost, `{"action":"burn"}`, http.StatusBadRequest}, {"op", http.MethodPost, `{"key":"x"}`, http.StatusBadRequest},
		{"op", http.MethodPut, `{}`, http.StatusMethodNotAllowed}, {"op", http.MethodPost, `{"action":"rotate"}`, http.StatusOK},
	} {
		if got := ask(x.user, x.method, x.body); got != x.want {
			t.Errorf("%s: %s %s: %d, want %d", x.user, x.method, x.body, got, x.want)
		}
	}
}
