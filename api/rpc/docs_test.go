package rpc_test

import (
	"context"
	"encoding/base64"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/dynamicpb"

	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
	"github.com/kontiki/kontiki/test/harness"
)

var (
	example  = regexp.MustCompile(`(?m)^g (?:-d '(.*)' )?MASTER:6443 (kontiki\.v1\.\w+)/(\w+)`)
	inBase64 = regexp.MustCompile(`'\$\((?:base64 -w0 (\S+)|echo '(.*?)' \| base64 -w0)\)'`)
)

// TestTheExamplesOfTheDocumentation does what grpcurl does with the commands in docs/grpc.md: it learns the methods by reflection,
// decodes the JSON, and calls. Calls that need agents or a cluster, which the harness does not have, must at least be decoded.
func TestTheExamplesOfTheDocumentation(t *testing.T) {
	text, err := os.ReadFile("../../docs/grpc.md")
	if err != nil {
		t.Fatal(err)
	}
	h := harness.New(t)
	conn := h.GRPC("admin", "system:masters")
	examples := example.FindAllStringSubmatch(string(text), -1)
	if len(examples) < 10 {
		t.Fatalf("only %d examples were found", len(examples))
	}
	settings := `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"settings"},"data":{"colour":"green"}}`
	for _, e := range examples {
		service, method := e[2], e[3]
		t.Run(service+"/"+method, func(t *testing.T) {
			request := inBase64.ReplaceAllStringFunc(e[1], func(command string) string {
				if literal := inBase64.FindStringSubmatch(command)[2]; literal != "" {
					return base64.StdEncoding.EncodeToString([]byte(literal))
				}
				return base64.StdEncoding.EncodeToString([]byte(settings))
			})
			if strings.Contains(request, "$(") {
				t.Fatalf("this test cannot read %s", e[0])
			}
			if service == "kontiki.v1.Cluster" { // the harness has none
				d := kontikiv1.File_kontiki_v1_cluster_proto.Services().ByName("Cluster").Methods()
				for i := range d.Len() {
					if string(d.Get(i).Name()) == method {
						unmarshalJSON(t, orEmpty(request), dynamicpb.NewMessage(d.Get(i).Input()))
						return
					}
				}
				t.Fatal("there is no such method")
			}
			ctx, cancel := context.WithTimeout(deadline(t), 20*time.Second)
			defer cancel()
			var found bool
			methods := describe(t, ctx, conn, service).Methods()
			for i := range methods.Len() {
				m := methods.Get(i)
				if string(m.Name()) != method {
					continue
				}
				found = true
				in, out := dynamicpb.NewMessage(m.Input()), dynamicpb.NewMessage(m.Output())
				unmarshalJSON(t, orEmpty(request), in)
				stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: m.IsStreamingServer()}, "/"+service+"/"+method)
				if err == nil {
					if err = stream.SendMsg(in); err == nil {
						if err = stream.CloseSend(); err == nil {
							err = stream.RecvMsg(out)
						}
					}
				}
				want := codes.OK
				if service == "kontiki.v1.Pods" {
					want = codes.NotFound // the pod of the example
				}
				if status.Code(err) != want {
					t.Fatalf("%v", err)
				}
				if _, err := protojson.Marshal(out); err != nil {
					t.Error(err)
				}
			}
			if !found {
				t.Error("there is no such method")
			}
		})
	}
}

func orEmpty(request string) string {
	if request == "" {
		return "{}"
	}
	return request
}
