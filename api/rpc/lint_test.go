package rpc_test

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/kontiki/kontiki/api/rpc"
	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
)

var publicFiles = []protoreflect.FileDescriptor{
	kontikiv1.File_kontiki_v1_objects_proto, kontikiv1.File_kontiki_v1_cluster_proto, kontikiv1.File_kontiki_v1_pods_proto,
}

// declared returns the full names of everything that is visible to a client.
type declared map[string]bool

func (d declared) message(m protoreflect.MessageDescriptor) {
	d[string(m.FullName())] = true
	for i := range m.Fields().Len() {
		d[string(m.Fields().Get(i).FullName())] = true
	}
	for i := range m.Oneofs().Len() {
		if o := m.Oneofs().Get(i); !o.IsSynthetic() {
			d[string(o.FullName())] = true
		}
	}
	for i := range m.Messages().Len() {
		if !m.Messages().Get(i).IsMapEntry() {
			d.message(m.Messages().Get(i))
		}
	}
	for i := range m.Enums().Len() {
		d.enum(m.Enums().Get(i))
	}
}

func (d declared) enum(e protoreflect.EnumDescriptor) {
	d[string(e.FullName())] = true
	for i := range e.Values().Len() { // a value is a name of the scope that the enum is in; here it belongs to the enum
		d[string(e.FullName())+"."+string(e.Values().Get(i).Name())] = true
	}
}

func (d declared) service(s protoreflect.ServiceDescriptor) {
	d[string(s.FullName())] = true
	for i := range s.Methods().Len() {
		d[string(s.Methods().Get(i).FullName())] = true
	}
}

var (
	opening = regexp.MustCompile(`^\s*(message|enum|service|oneof)\s+(\w+)\s*\{(\})?`)
	method  = regexp.MustCompile(`^\s*rpc\s+(\w+)\(`)
	field   = regexp.MustCompile(`^\s*(?:repeated |optional )?(?:[\w.]+\s+|map<\w+, \w+>\s+)?(\w+)\s*=\s*\d+;`)
)

// commented reads a .proto file and returns its declarations, and whether there is a comment above each.
func commented(t *testing.T, pkg, source string) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	scope := []string{pkg}
	comment := ""
	for _, line := range strings.Split(source, "\n") {
		trimmed := strings.TrimSpace(line)
		if strings.HasPrefix(trimmed, "//") {
			comment += trimmed
			continue
		}
		note := func(name string) {
			found[scope[len(scope)-1]+"."+name] = regexp.MustCompile(`\b` + name + `\b`).MatchString(comment)
		}
		switch {
		case opening.MatchString(line):
			m := opening.FindStringSubmatch(line)
			note(m[2])
			inner := scope[len(scope)-1]
			if m[1] != "oneof" { // whose fields are the message's
				inner += "." + m[2]
			}
			if m[3] == "" {
				scope = append(scope, inner)
			}
		case method.MatchString(line):
			note(method.FindStringSubmatch(line)[1])
		case field.MatchString(line):
			note(field.FindStringSubmatch(line)[1])
		case trimmed == "}":
			scope = scope[:len(scope)-1]
		}
		comment = ""
	}
	return found
}

// TestThePublicProtocolIsDescribed requires, for everything that is visible to a client, a comment with its name, which is more
// than `make lint` requires (buf.yaml), and generated code of the same declarations.
func TestThePublicProtocolIsDescribed(t *testing.T) {
	all := 0
	for _, file := range publicFiles {
		l := declared{}
		for i := range file.Messages().Len() {
			l.message(file.Messages().Get(i))
		}
		for i := range file.Enums().Len() {
			l.enum(file.Enums().Get(i))
		}
		for i := range file.Services().Len() {
			l.service(file.Services().Get(i))
		}
		source, err := os.ReadFile("../../proto/" + file.Path())
		if err != nil {
			t.Fatal(err)
		}
		found := commented(t, string(file.Package()), string(source))
		for name := range l {
			has, ok := found[name]
			if !ok {
				t.Errorf("%s: %s is not found in the source; regenerate, or teach this test its form", file.Path(), name)
			} else if !has {
				t.Errorf("%s: %s has no comment that names it", file.Path(), name)
			}
		}
		for name := range found {
			if !l[name] {
				t.Errorf("%s: %s is not in the generated code; run make generate", file.Path(), name)
			}
		}
		all += len(found)
	}
	if all < 200 {
		t.Error(fmt.Sprint("only ", all, " declarations were looked at"))
	}
}

// TestEveryErrorIsDescribed compares the table of errors in objects.proto with the table in the code.
func TestEveryErrorIsDescribed(t *testing.T) {
	source, err := os.ReadFile("../../proto/kontiki/v1/objects.proto")
	if err != nil {
		t.Fatal(err)
	}
	described := map[string]string{} // the text of a code, with the lines that go on below it
	code := ""
	row, more := regexp.MustCompile(`^//   ([A-Z_]+)  +(.*)`), regexp.MustCompile(`^//    +(.*)`)
	for line := range strings.Lines(string(source)) {
		if m := row.FindStringSubmatch(line); m != nil {
			code = m[1]
			described[code] = m[2]
		} else if m := more.FindStringSubmatch(line); m != nil {
			described[code] += " " + m[1]
		}
	}
	canonical := regexp.MustCompile(`([a-z])([A-Z])`)
	used := map[string]bool{"CANCELLED": true}
	for reason, code := range rpc.CodeOfReason {
		name := strings.ToUpper(canonical.ReplaceAllString(code.String(), "${1}_${2}"))
		used[name] = true
		if !regexp.MustCompile(`\b` + string(reason) + `\b`).MatchString(described[name]) {
			t.Errorf("%s is not described as a %s", reason, name)
		}
	}
	for code := range described {
		if !used[code] {
			t.Errorf("%s is described, and no reason has it", code)
		}
	}
}
