package e2e_test

import (
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
)

func TestPodsAreReachedByGRPC(t *testing.T) {
	ns := namespace(t)
	apply(t, in(ns, toolPod("server", "worker-2", "sh", "-c", "echo hello from the log; exec tools serve")))
	kubectl(t, "-n", ns, "wait", "--for=condition=Ready", "pod/server", "--timeout=60s")
	ctx := within(t, time.Minute)
	api := kontikiv1.NewPodsClient(grpcTo(t, "master-2"))

	logs, err := api.Logs(ctx, &kontikiv1.LogsRequest{Namespace: ns, Name: "server"})
	if err != nil {
		t.Fatal(err)
	}
	text := ""
	for {
		part, err := logs.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		text += string(part.Data)
	}
	if !strings.HasPrefix(text, "hello from the log\n") {
		t.Errorf("the log is %q", text)
	}

	run := func(stdin string, tty bool, command ...string) (stdout, stderr string, code int32, err error) {
		t.Helper()
		stream, err := api.Exec(ctx)
		if err != nil {
			t.Fatal(err)
		}
		requests := []*kontikiv1.ExecRequest{{Request: &kontikiv1.ExecRequest_Start{Start: &kontikiv1.ExecStart{Namespace: ns, Name: "server", Command: command, Stdin: stdin != "", Tty: tty}}}}
		if tty {
			requests = append(requests, &kontikiv1.ExecRequest{Request: &kontikiv1.ExecRequest_Resize{Resize: &kontikiv1.TerminalSize{Width: 91, Height: 17}}})
		}
		if stdin != "" {
			requests = append(requests, &kontikiv1.ExecRequest{Request: &kontikiv1.ExecRequest_Stdin{Stdin: []byte(stdin)}},
				&kontikiv1.ExecRequest{Request: &kontikiv1.ExecRequest_StdinEnd{StdinEnd: true}})
		}
		for _, r := range requests {
			if err := stream.Send(r); err != nil && !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
		}
		code = -1
		for {
			m, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return stdout, stderr, code, nil
			}
			if err != nil {
				return stdout, stderr, code, err
			}
			switch r := m.Response.(type) {
			case *kontikiv1.ExecResponse_Stdout:
				stdout += string(r.Stdout)
			case *kontikiv1.ExecResponse_Stderr:
				stderr += string(r.Stderr)
			case *kontikiv1.ExecResponse_ExitCode:
				code = r.ExitCode
			}
		}
	}
	if out, errs, code, err := run("", false, "sh", "-c", "echo out; echo err >&2; exit 7"); err != nil || out != "out\n" || errs != "err\n" || code != 7 {
		t.Errorf("%q %q %d %v", out, errs, code, err)
	}
	typed := strings.Repeat("typed ", 50000)
	if out, _, code, err := run(typed, false, "cat"); err != nil || out != typed || code != 0 {
		t.Errorf("%d of %d bytes came back, %d %v", len(out), len(typed), code, err)
	}
	if out, _, code, err := run("", true, "sh", "-c", "test -t 1 && echo terminal"); err != nil || out != "terminal\r\n" || code != 0 {
		t.Errorf("%q %d %v", out, code, err)
	}
	if _, _, code, err := run("", false, "no-such-program"); status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "no-such-program") {
		t.Errorf("a program that is not there: %d %v", code, err)
	}
	if _, _, code, err := run("", false, "echo", strings.Repeat("long", 100<<10)); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "start.command: has 409604 bytes") {
		t.Errorf("a command that is too long: %d %v", code, err)
	}

	forward := func(port uint32) (string, error) {
		stream, err := api.PortForward(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range []*kontikiv1.PortForwardRequest{
			{Request: &kontikiv1.PortForwardRequest_Start{Start: &kontikiv1.PortForwardStart{Namespace: ns, Name: "server", Port: port}}},
			{Request: &kontikiv1.PortForwardRequest_Data{Data: []byte("GET / HTTP/1.1\r\nHost: server\r\nConnection: close\r\n\r\n")}},
		} {
			if err := stream.Send(r); err != nil && !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
		}
		answer := ""
		for {
			part, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return answer, nil
			}
			if err != nil {
				return answer, err
			}
			answer += string(part.Data)
		}
	}
	if answer, err := forward(8080); err != nil || !strings.HasPrefix(answer, "HTTP/1.1 200 OK") {
		t.Errorf("%q %v", answer, err)
	}
	if answer, err := forward(9); status.Code(err) != codes.Unavailable {
		t.Errorf("%q %v", answer, err)
	}
	if _, err := forward(70000); status.Code(err) != codes.InvalidArgument {
		t.Errorf("%v", err)
	}
	none, err := api.Logs(ctx, &kontikiv1.LogsRequest{Namespace: ns, Name: "none"})
	if err == nil {
		_, err = none.Recv()
	}
	if status.Code(err) != codes.NotFound {
		t.Errorf("%v", err)
	}
}
