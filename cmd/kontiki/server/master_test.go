package server

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kontiki/kontiki/cluster"
	"github.com/kontiki/kontiki/cluster/consensus"
	"github.com/kontiki/kontiki/cluster/errclass"
	"github.com/kontiki/kontiki/cluster/gossip"
	"github.com/kontiki/kontiki/cluster/mtls"
	"github.com/kontiki/kontiki/cluster/pki"
	"github.com/kontiki/kontiki/cluster/worker"
	"github.com/kontiki/kontiki/cmd/kontiki/admin"
	"github.com/kontiki/kontiki/controller/certificates"
	"github.com/kontiki/kontiki/controller/nodelifecycle"
	"github.com/kontiki/kontiki/node/wire"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
	"github.com/kontiki/kontiki/test/await"
)

// testMaster is a whole master in this process, without a worker.
type testMaster struct {
	*master
	admin *kubernetes.Clientset
	api   string
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// startMaster starts one, which ends with the test. change may change its options.
func startMaster(t testing.TB, change ...func(*serverOptions, *cluster.Config)) *testMaster {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	if os.Getenv("KONTIKI_TEST_LOG") != "" {
		log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	o := &serverOptions{
		name: "master-1", nodeIP: "127.0.0.1", dataDir: filepath.Join(t.TempDir(), "server"), apiPort: freePort(t), apiBind: "127.0.0.1",
		serviceCIDR: "10.96.0.0/16", podCIDR: "10.244.0.0/16", clusterDomain: "cluster.local", tolerationSeconds: 300, noAgent: true,
		timings: cluster.Timings{Certificate: pki.DefaultTTL}, confirmPeriod: 5 * time.Second, sessionGrace: time.Minute, evictions: nodelifecycle.DefaultEvictions,
		signingDuration: certificates.DefaultDuration,
		duties:          dutyList{"*"},
	}
	o.authn.flags(pflag.NewFlagSet("test", pflag.ContinueOnError))
	r, err := o.ranges()
	if err != nil {
		t.Fatal(err)
	}
	cfg := cluster.Config{
		Name: o.name, DataDir: o.dataDir, BindAddress: "127.0.0.1:0", GossipBindAddress: "127.0.0.1:0", Bootstrap: true, Logger: log,
		APIAddress: net.JoinHostPort(o.nodeIP, strconv.Itoa(o.apiPort)), APIHosts: []string{"127.0.0.1", "localhost", "10.96.0.1"},
		Timings: cluster.Timings{Timings: consensus.Timings{Heartbeat: 200 * time.Millisecond, Election: 200 * time.Millisecond, Lease: 150 * time.Millisecond}, Gossip: gossip.Local},
	}
	for _, f := range change {
		f(o, &cfg)
	}
	cfg.Timings.Certificate = o.timings.Certificate
	c, err := cluster.Open(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	authentication, err := o.authn.open(o.name, log)
	if err != nil {
		t.Fatal(errors.Join(err, c.Close()))
	}
	m, err := newMaster(c, o, r, authentication, nil, log)
	if err != nil {
		t.Fatal(errors.Join(err, c.Close()))
	}
	running, stop := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() { stopped <- m.run(running) }()
	t.Cleanup(func() {
		stop()
		select {
		case err := <-stopped:
			if err != nil && !errors.Is(err, errclass.ErrRemoved) { // by the test
				t.Errorf("the master ended with %v", err)
			}
		case <-time.After(time.Minute):
			t.Error("the master does not stop")
		}
	})
	tm := &testMaster{master: m, api: "https://" + cfg.APIAddress}
	path := filepath.Join(o.dataDir, "admin.kubeconfig")
	await.That(t, "the administrator's kubeconfig", func() error {
		_, err := os.Stat(path)
		return err
	})
	config, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		t.Fatal(err)
	}
	config.QPS = -1
	if tm.admin, err = kubernetes.NewForConfig(config); err != nil {
		t.Fatal(err)
	}
	await.That(t, "the controllers to be at work", func() error {
		_, err := tm.admin.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{})
		return err
	})
	return tm
}

// joinTestWorker gets a real worker's identity.
func (m *testMaster) joinTestWorker(t *testing.T, name string) *worker.Identity {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	token, err := m.cluster.CreateToken(ctx, mtls.RoleWorker, time.Hour, "")
	if err != nil {
		t.Fatal(err)
	}
	w, err := worker.Join(ctx, worker.Config{
		Name: name, Dir: t.TempDir(), Join: []string{m.cluster.Address()}, Token: token, Addresses: []string{"127.0.0.1"}, Logger: m.log,
	})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// session is a worker's session, as far as a thief needs it.
type session struct {
	t      *testing.T
	stream nodev1.NodeService_SessionClient
	client nodev1.NodeServiceClient
	conn   *grpc.ClientConn
	// told is everything that the master has sent, by resource, namespace and name.
	told     map[string]bool
	sequence uint64
}

func openSession(t *testing.T, m *testMaster, w *worker.Identity, helloName string, node *corev1.Node) (*session, error) {
	t.Helper()
	conn, err := w.Connect(m.cluster.Address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	s := &session{t: t, conn: conn, client: nodev1.NewNodeServiceClient(conn), told: map[string]bool{}}
	if s.stream, err = s.client.Session(t.Context()); err != nil {
		return nil, err
	}
	data, err := wire.Encode("v1", "Node", node)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.stream.Send(&nodev1.SessionRequest{Message: &nodev1.SessionRequest_Hello{Hello: &nodev1.Hello{NodeName: helloName, Node: data}}}); err != nil {
		return nil, err
	}
	for { // up to the end of the first full set
		message, err := s.stream.Recv()
		if err != nil {
			return nil, err
		}
		s.note(message)
		if a := message.GetAssignment(); a != nil && !a.Incomplete {
			return s, nil
		}
	}
}

func (s *session) note(message *nodev1.SessionResponse) {
	for _, o := range message.GetAssignment().GetUpserts() {
		s.told[strings.Join([]string{o.Key.Resource, o.Key.Namespace, o.Key.Name}, "/")] = true
	}
}

// report sends a batch and returns the errors in its result.
func (s *session) report(batch *nodev1.StatusBatch) []string {
	s.t.Helper()
	s.sequence++
	batch.Sequence = s.sequence
	if err := s.stream.Send(&nodev1.SessionRequest{Message: &nodev1.SessionRequest_Status{Status: batch}}); err != nil {
		s.t.Fatal(err)
	}
	for {
		message, err := s.stream.Recv()
		if err != nil {
			s.t.Fatal(err)
		}
		s.note(message)
		if r := message.GetStatusResult(); r != nil && r.Sequence == batch.Sequence {
			return r.Errors
		}
	}
}

func nodeObject(name string, labels map[string]string) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Status:     corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}}},
	}
}

// podNaming returns a pod on a node that refers to a Secret and a ConfigMap.
func podNaming(name, node, secret, configMap string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "x", EnvFrom: []corev1.EnvFromSource{
			{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: secret}}},
			{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: configMap}}},
		}}}},
	}
}

// administration returns the program's commands that ask a running cluster.
func administration() *cobra.Command {
	c := &cobra.Command{Use: "kontiki", SilenceUsage: true, SilenceErrors: true}
	c.AddCommand(admin.Commands()...)
	return c
}
