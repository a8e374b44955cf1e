package e2e_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/kontiki/kontiki/cluster/backup"
	"github.com/kontiki/kontiki/internal/kv"
	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
)

// grpcTo is an administrator's connection to one master.
func grpcTo(t *testing.T, host string) *grpc.ClientConn {
	t.Helper()
	config, err := rest.TLSConfigFor(env.Config)
	if err != nil {
		t.Fatal(err)
	}
	config = config.Clone()
	config.ServerName, config.NextProtos, config.MinVersion = address(t, host), nil, tls.VersionTLS12
	conn, err := grpc.NewClient("passthrough:///"+address(t, host)+":6443", grpc.WithTransportCredentials(credentials.NewTLS(config)), grpc.WithUserAgent("e2e/1"),
		grpc.WithContextDialer(inNamespace(t, host)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func masterNames() (names []string) {
	for i := range masters {
		names = append(names, fmt.Sprintf("master-%d", i+1))
	}
	return names
}

func within(t *testing.T, limit time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	return ctx
}

var configMapKind = &kontikiv1.Kind{Version: "v1", Kind: "ConfigMap"}

func creation(t *testing.T, ns, name, value string) *kontikiv1.CreateRequest {
	t.Helper()
	raw, err := (&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Data: map[string]string{"k": value}}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return &kontikiv1.CreateRequest{Object: &kontikiv1.Object{Kind: configMapKind, Namespace: ns, Name: name, Data: raw}}
}

func TestTheGRPCAPIOnEveryMaster(t *testing.T) {
	healthy(t)
	ns := namespace(t)
	ctx := within(t, time.Minute)
	conns := map[string]*grpc.ClientConn{}
	for _, name := range masterNames() {
		conns[name] = grpcTo(t, name)
	}
	watch, err := kontikiv1.NewObjectsClient(conns["master-1"]).Watch(ctx, &kontikiv1.WatchRequest{Kind: configMapKind, Namespace: ns, SendInitialEvents: true})
	if err != nil {
		t.Fatal(err)
	}
	for name, conn := range conns {
		health, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{})
		if err != nil || health.Status != healthv1.HealthCheckResponse_SERVING {
			t.Errorf("%s: %v %v", name, health, err)
		}
		mirror, err := reflectionv1.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := mirror.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}); err != nil {
			t.Fatal(err)
		}
		services, err := mirror.Recv()
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"kontiki.v1.Objects", "kontiki.v1.Cluster", "kontiki.v1.Pods"} {
			if !slices.ContainsFunc(services.GetListServicesResponse().GetService(), func(s *reflectionv1.ServiceResponse) bool { return s.Name == want }) {
				t.Errorf("%s: %s is not in %v", name, want, services)
			}
		}
		api := kontikiv1.NewObjectsClient(conn)
		if _, err := api.Create(ctx, creation(t, ns, "on-"+name, "1")); err != nil {
			t.Fatal(err)
		}
		if _, err := api.Transact(ctx, &kontikiv1.TransactRequest{Operations: []*kontikiv1.Operation{
			{Operation: &kontikiv1.Operation_Create{Create: creation(t, ns, "tx-"+name, "1")}},
			{Operation: &kontikiv1.Operation_Patch{Patch: &kontikiv1.PatchRequest{Reference: &kontikiv1.Reference{Kind: configMapKind, Namespace: ns, Name: "on-" + name},
				Type: kontikiv1.PatchType_PATCH_TYPE_MERGE, Patch: []byte(`{"data":{"k":"2"}}`)}}},
		}}); err != nil {
			t.Fatal(err)
		}
		// Every other master returns it at once.
		for other, conn := range conns {
			for _, object := range []string{"on-", "tx-"} {
				got, err := kontikiv1.NewObjectsClient(conn).Get(ctx, &kontikiv1.GetRequest{Reference: &kontikiv1.Reference{Kind: configMapKind, Namespace: ns, Name: object + name}})
				if err != nil {
					t.Fatalf("%s: %v", other, err)
				}
				stored := &corev1.ConfigMap{}
				if err := stored.Unmarshal(got.Object.Data); err != nil || (object == "on-") != (stored.Data["k"] == "2") {
					t.Errorf("%s shows %v (%v)", other, stored.Data, err)
				}
			}
		}
	}
	seen := map[string]int{}
	for len(seen) < 6 || seen["on-master-3"]+seen["on-master-2"]+seen["on-master-1"] < 6 {
		event, err := watch.Recv()
		if err != nil {
			t.Fatalf("%v after %v", err, seen)
		}
		if event.Object != nil && event.Object.Name != "kube-root-ca.crt" {
			seen[event.Object.Name]++
		}
	}
}

func TestTheClusterIsAdministeredByGRPC(t *testing.T) {
	healthy(t)
	ctx := within(t, 2*time.Minute)
	for _, name := range masterNames() {
		api := kontikiv1.NewClusterClient(grpcTo(t, name))
		st, err := api.Status(ctx, &kontikiv1.StatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if len(st.Masters) != masters || st.FailuresTolerated != 1 || st.Leader == "" || st.Masters[0].Name != "master-1" || st.Masters[0].Health != "ok" || st.Masters[0].ApiAddress == "" || st.ClusterId == "" {
			t.Errorf("%s: %v", name, st)
		}
	}
	api := kontikiv1.NewClusterClient(grpcTo(t, "master-2"))
	members, err := api.Members(ctx, &kontikiv1.MembersRequest{})
	if err != nil || len(members.Members) < masters {
		t.Errorf("%v %v", members, err)
	}
	leader, err := env.Leader()
	if err != nil {
		t.Fatal(err)
	}
	to := "master-1"
	if leader == to {
		to = "master-3"
	}
	moved, err := api.TransferLeadership(ctx, &kontikiv1.TransferLeadershipRequest{To: to})
	if err != nil || moved.Leader != to {
		t.Errorf("%v %v, want %s", moved, err, to)
	}
	token, err := api.CreateToken(ctx, &kontikiv1.CreateTokenRequest{Role: "worker", Ttl: durationpb.New(time.Hour), Description: "by gRPC"})
	if err != nil {
		t.Fatal(err)
	}
	id := ""
	find := func() *kontikiv1.Token {
		t.Helper()
		list, err := api.ListTokens(ctx, &kontikiv1.ListTokensRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for _, one := range list.Tokens {
			if one.Description == "by gRPC" {
				return one
			}
		}
		return nil
	}
	if one := find(); one == nil || one.Role != "worker" || !strings.Contains(token.Token, one.Id) || one.ExpiresAt.AsTime().Sub(one.CreatedAt.AsTime()) != time.Hour {
		t.Fatalf("%v", one)
	} else {
		id = one.Id
	}
	if _, err := api.RevokeToken(ctx, &kontikiv1.RevokeTokenRequest{Id: id}); err != nil {
		t.Error(err)
	}
	if one := find(); one != nil {
		t.Errorf("%v is still there", one)
	}
	for name, call := range map[codes.Code]func() error{
		codes.NotFound:        func() error { _, err := api.RevokeToken(ctx, &kontikiv1.RevokeTokenRequest{Id: id}); return err },
		codes.InvalidArgument: func() error { _, err := api.CreateToken(ctx, &kontikiv1.CreateTokenRequest{Role: "king"}); return err },
	} {
		if err := call(); status.Code(err) != name {
			t.Errorf("%v, want %v", err, name)
		}
	}
	if _, err := api.RemoveMember(ctx, &kontikiv1.RemoveMemberRequest{Name: "nobody"}); status.Code(err) != codes.NotFound {
		t.Errorf("%v", err)
	}
	healthy(t)
}

// backupOf returns all objects in a backup.
func backupOf(t *testing.T, r io.Reader) (backup.Info, []string) {
	t.Helper()
	var all []string
	info, err := backup.Read(r, func(v *kv.Version) error {
		all = append(all, fmt.Sprintf("%s %d %d %x", v.Key, v.CreateRevision, v.ModRevision, v.Value))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return info, all
}

func TestASnapshotByGRPCIsTheOneThatIsSaved(t *testing.T) {
	healthy(t)
	file := filepath.Join(t.TempDir(), "saved")
	ctx := within(t, time.Minute)
	api := kontikiv1.NewClusterClient(grpcTo(t, "master-3"))
	eventually(t, 30*time.Second, "two snapshots of one revision", func() error {
		stream, err := api.Snapshot(ctx, &kontikiv1.SnapshotRequest{})
		if err != nil {
			return err
		}
		must(t, "snapshot", "save", file)
		var streamed bytes.Buffer
		for {
			part, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return err
			}
			streamed.Write(part.Data)
		}
		saved, err := os.Open(file)
		if err != nil {
			return err
		}
		defer saved.Close()
		savedInfo, savedAll := backupOf(t, saved)
		info, all := backupOf(t, &streamed)
		if info.Revision != savedInfo.Revision {
			return errNotYet // the cluster never stands still for long
		}
		if info.ClusterID != savedInfo.ClusterID || info.Objects != savedInfo.Objects || len(all) < 20 || !slices.Equal(all, savedAll) {
			t.Errorf("%+v with %d objects, saved %+v with %d", info, len(all), savedInfo, len(savedAll))
		}
		return nil
	})
}

// TestTransactionsAreWholeThoughTheLeaderIsKilled writes transactions through every master, kills the leader in between, and checks
// that each is stored completely or not at all.
func TestTransactionsAreWholeThoughTheLeaderIsKilled(t *testing.T) {
	healthy(t)
	ns := namespace(t)
	const each = 5
	var apis []kontikiv1.ObjectsClient
	for _, name := range masterNames() {
		apis = append(apis, kontikiv1.NewObjectsClient(grpcTo(t, name)))
	}
	var mu sync.Mutex
	acked, unknown := map[string]bool{}, map[string]bool{}
	stop := make(chan struct{})
	var writers sync.WaitGroup
	for w := range apis {
		writers.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				name := fmt.Sprintf("w%d-%d", w, n)
				tx := &kontikiv1.TransactRequest{}
				for i := range each {
					tx.Operations = append(tx.Operations, &kontikiv1.Operation{Operation: &kontikiv1.Operation_Create{Create: creation(t, ns, fmt.Sprintf("%s-%d", name, i), "1")}})
				}
				ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
				_, err := apis[w].Transact(ctx, tx)
				cancel()
				mu.Lock()
				if err == nil {
					acked[name] = true
				} else {
					unknown[name] = true
				}
				mu.Unlock()
				if err != nil {
					time.Sleep(20 * time.Millisecond) // a master that is dead answers at once
				}
			}
		})
	}
	// Lists in the meantime, also during the kill, contain transactions completely or not at all.
	stored := func(ctx context.Context) (map[string]int, error) {
		list, err := env.Set.CoreV1().ConfigMaps(ns).List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, err
		}
		stored := map[string]int{}
		for _, cm := range list.Items {
			if cm.Name != "kube-root-ca.crt" {
				stored[cm.Name[:strings.LastIndex(cm.Name, "-")]]++
			}
		}
		for name, n := range stored {
			if n != each {
				t.Errorf("a list shows %d of the %d objects of transaction %s", n, each, name)
			}
		}
		return stored, nil
	}
	var lists atomic.Int64
	writers.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			if _, err := stored(ctx); err == nil { // one from the master that is killed ends
				lists.Add(1)
			}
			cancel()
		}
	})
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(acked)
	}
	eventually(t, 20*time.Second, "transactions to flow", func() error {
		if count() < 50 {
			return errNotYet
		}
		return nil
	})
	victim, err := env.Leader()
	if err != nil {
		t.Fatal(err)
	}
	must(t, "dev", "kill", victim)
	at, listed := count(), lists.Load()
	eventually(t, 30*time.Second, "transactions and lists to flow again", func() error {
		if count() < at+50 || lists.Load() < listed+5 {
			return errNotYet
		}
		return nil
	})
	close(stop)
	writers.Wait()
	there, err := stored(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for name := range acked {
		if there[name] != each {
			t.Errorf("of the acknowledged transaction %s %d objects are there", name, there[name])
		}
	}
	came := 0
	for name := range unknown {
		if there[name] != 0 {
			came++
		}
	}
	t.Logf("%d transactions acknowledged, %d not, of which %d were stored; %d lists", len(acked), len(unknown), came, lists.Load())
	must(t, "dev", "start", victim)
	healthy(t)
}
