package main

import (
	"os"
	"strings"
	"testing"
)

// TestTheReferenceIsThatOfTheProtocols: docs/reference-grpc.md is what `make generate` writes.
func TestTheReferenceIsThatOfTheProtocols(t *testing.T) {
	now, err := reference("../../" + protocols)
	if err != nil {
		t.Fatal(err)
	}
	written, err := os.ReadFile("../../" + out)
	if err != nil || now != string(written) {
		t.Errorf("%s is not that of the protocols: run `make generate` (%v)", out, err)
	}
}

func TestAFileIsReadWhole(t *testing.T) {
	const text = `syntax = "proto3";

// Package a is a test:
//
//   CODE  what it means
package a;

// S serves
// things.
service S {
  // Get gets.
  rpc Get(GetRequest) returns (stream GetResponse);
}

// M is a message.
message M {
  // Kind is an enum.
  enum Kind {
    KIND_UNSPECIFIED = 0;
    // KIND_A is a|b.
    KIND_A = 1;
  }
  // a has a value.
  optional int64 a = 1;
  map<string, string> b = 2;
  // either one
  oneof either {
    // c is c.
    a.v1.C c = 3;
  }
}
message Empty {}
`
	var page strings.Builder
	if err := file(&page, text); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"Package a is a test:", "```text\n  CODE  what it means\n```",
		"### service S", "S serves things.", "| `Get` | `GetRequest` | `stream GetResponse` | Get gets. |",
		"### message M", "### enum M.Kind", "| `KIND_UNSPECIFIED` |  |", "| `KIND_A` | KIND_A is a\\|b. |",
		"| `a` | `optional int64` | a has a value. |", "| `b` | `map<string, string>` |  |", "|  | one of `either` | either one |", "| `c` | `a.v1.C` | c is c. |", "### message Empty",
	} {
		if !strings.Contains(page.String(), line+"\n") {
			t.Errorf("%q is not in\n%s", line, page.String())
		}
	}
	for _, bad := range []string{"message M {", "}", "message M {\n  int64 a = b;\n}", "extend M {}"} {
		if err := file(&strings.Builder{}, bad); err == nil {
			t.Errorf("%q is understood", bad)
		}
	}
}
