package clusterapi

import (
	"reflect"
	"testing"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/kontiki/kontiki/cluster"
)

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
