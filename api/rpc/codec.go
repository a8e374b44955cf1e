package rpc

import (
	"context"
	"fmt"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	grpcproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kontiki/kontiki/internal/contain"
)

// received wraps a message to decode. If decoding fails, grpc-go responds with INTERNAL, as if it were the server's fault; this
// keeps the reason, so that the API can respond with it.
type received struct {
	message any
	err     error
}

// codec is grpc-go's protobuf codec, extended to received.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2(grpcproto.Name)} }

// Marshal implements encoding.CodecV2. grpc-go calls Marshal and Unmarshal outside of the interceptors, in its own goroutines.
func (c codec) Marshal(v any) (data mem.BufferSlice, err error) {
	defer contain.Recover(&err)
	return c.CodecV2.Marshal(v)
}

// Unmarshal implements encoding.CodecV2.
func (c codec) Unmarshal(data mem.BufferSlice, v any) (err error) {
	defer contain.Recover(&err)
	r, ok := v.(*received)
	if !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	if err := c.CodecV2.Unmarshal(data, r.message); err != nil {
		r.err = unreadable(err, r.message, data.Materialize())
	}
	return nil
}

// unreadable returns the error for a message that cannot be decoded.
func unreadable(err error, message any, raw []byte) error {
	m, ok := message.(proto.Message)
	if !ok {
		return err
	}
	d := m.ProtoReflect().Descriptor()
	if path, _ := broken(d, raw); path != "" {
		return Wrong(path, "cannot be read: %v", err)
	}
	return apierrors.NewBadRequest(fmt.Sprintf("the message cannot be read as a %s: %v", d.FullName(), err))
}

// broken says whether a message cannot be decoded, and returns the path of the first field that cannot, or "" if the fault is not
// in a known field. It is as strict as package proto (https://protobuf.dev/programming-guides/encoding).
func broken(d protoreflect.MessageDescriptor, raw []byte) (path string, is bool) {
	seen := map[protowire.Number]int{}
	for len(raw) > 0 {
		number, kind, size := protowire.ConsumeTag(raw)
		if size < 0 {
			return "", true
		}
		raw = raw[size:]
		size = protowire.ConsumeFieldValue(number, kind, raw)
		field := d.Fields().ByNumber(number)
		name := ""
		if field != nil {
			name = string(field.Name())
			if field.IsList() {
				name = fmt.Sprintf("%s[%d]", name, seen[number])
				seen[number]++
			}
		}
		if size < 0 {
			return name, true
		}
		if field != nil && kind == protowire.BytesType {
			value, _ := protowire.ConsumeBytes(raw)
			if field.Kind() == protoreflect.StringKind && !utf8.Valid(value) {
				return name, true
			}
			if field.Kind() == protoreflect.MessageKind {
				if inner, is := broken(field.Message(), value); is {
					return join(name, inner), true
				}
			}
		}
		raw = raw[size:]
	}
	return "", false
}

// registrar registers services so that their messages are decoded through received.
type registrar struct{ *grpc.Server }

// RegisterService implements grpc.ServiceRegistrar.
func (r registrar) RegisterService(d *grpc.ServiceDesc, implementation any) {
	service := *d
	service.Methods = make([]grpc.MethodDesc, len(d.Methods))
	for i, method := range d.Methods {
		service.Methods[i] = grpc.MethodDesc{MethodName: method.MethodName, Handler: func(server any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
			return method.Handler(server, ctx, func(message any) error { return receive(decode, message) }, interceptor)
		}}
	}
	r.Server.RegisterService(&service, implementation)
}

// receive reads a message with a function that decodes into its argument. Its error is a gRPC status.
func receive(read func(any) error, message any) error {
	r := received{message: message}
	if err := read(&r); err != nil {
		return err
	}
	if r.err != nil {
		return Status(r.err).Err()
	}
	return nil
}

// receiving is a stream whose messages are decoded through received. With the first one the call takes its slot.
type receiving struct {
	grpc.ServerStream
	caller *caller
	begun  bool // written only by the goroutine that receives
}

// RecvMsg implements grpc.ServerStream.
func (s *receiving) RecvMsg(message any) error {
	err := receive(s.ServerStream.RecvMsg, message)
	if err != nil || s.begun {
		return err
	}
	s.begun = true
	s.caller.told(message)
	if err = s.caller.enter(message); err != nil {
		s.caller.begin(message)
	}
	return err
}
