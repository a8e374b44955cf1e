package main

import (
	"context"
	"reflect"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kontiki/kontiki/cluster"
	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
)

// FuzzClusterRequests sends arbitrary bytes to the unary methods of the service Cluster, on a cluster of one master: nothing
// panics, and the master keeps running.
func FuzzClusterRequests(f *testing.F) {
	methods := kontikiv1.Cluster_ServiceDesc.Methods
	for i, method := range methods {
		for _, valid := range []proto.Message{
			&kontikiv1.CreateTokenRequest{Role: "worker", Ttl: durationpb.New(time.Hour), Description: "d"},
			&kontikiv1.RemoveMemberRequest{Name: "master-1"}, &kontikiv1.TransferLeadershipRequest{To: "master-2"}, &kontikiv1.RevokeTokenRequest{Id: "0"},
		} {
			raw, err := proto.Marshal(valid)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(uint8(i), raw)
			f.Add(uint8(i), raw[:len(raw)/2])
		}
		f.Logf("method %d is %s", i, method.MethodName)
	}
	m := startMaster(f)
	service := &clusterRPC{cluster: m.cluster}
	f.Fuzz(func(t *testing.T, method uint8, message []byte) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, err := methods[int(method)%len(methods)].Handler(service, ctx, func(in any) error { return proto.Unmarshal(message, in.(proto.Message)) }, nil)
		if apierrors.IsInternalError(err) {
			t.Error(err)
		}
		if _, err := m.cluster.Consistent(ctx); err != nil {
			t.Errorf("the master no longer answers: %v", err)
		}
	})
}

// TestTheStatusIsWholeInGRPC sets every field of a status: each field of the response must be set then, and there must be one for
// each.
func TestTheStatusIsWholeInGRPC(t *testing.T) {
	status := &cluster.Status{
		ClusterID: "c", Leader: "a", Term: 1, CommitIndex: 2, Revision: 3, Epoch: 4, FeatureLevel: 5, Behind: []string{"b"}, FailuresTolerated: 6, Problems: []string{"p"},
		Members: []cluster.MemberStatus{{
			Name: "a", Role: "leader", Address: "x:1", APIAddress: "x:2", Version: "v", Health: "ok", LastContact: "1ms", RoundTrip: "2ms", Gossip: "alive",
			AppliedIndex: 1, LastIndex: 2, Revision: 3, FeatureLevel: 4, DiskWrite: "3ms", DiskFree: 5, DiskTotal: 6, CertificateExpires: time.Now(),
			Settings: map[string]string{"k": "v"},
		}},
	}
	filled := func(v reflect.Value) (n int) {
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				if n++; v.Field(i).IsZero() {
					t.Errorf("this test does not fill %s", v.Type().Field(i).Name)
				}
			}
		}
		return n
	}
	answered := func(m protoreflect.Message) int {
		fields := m.Descriptor().Fields()
		for i := range fields.Len() {
			if !m.Has(fields.Get(i)) {
				t.Errorf("%s is empty", fields.Get(i).FullName())
			}
		}
		return fields.Len()
	}
	out := statusResponse(status)
	if a, b := filled(reflect.ValueOf(*status)), answered(out.ProtoReflect()); a != b {
		t.Errorf("a status has %d fields, its gRPC form %d", a, b)
	}
	if a, b := filled(reflect.ValueOf(status.Members[0])), answered(out.Masters[0].ProtoReflect()); a != b {
		t.Errorf("a master's status has %d fields, its gRPC form %d", a, b)
	}
}
