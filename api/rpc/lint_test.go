package rpc_test

import (
	"fmt"
	"os"
	"path"
	"regexp"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
)

var publicFiles = []protoreflect.FileDescriptor{
	kontikiv1.File_kontiki_v1_objects_proto, kontikiv1.File_kontiki_v1_cluster_proto, kontikiv1.File_kontiki_v1_pods_proto,
}

var (
	pascal = regexp.MustCompile(`^[A-Z][A-Za-z0-9]*$`)
	snake  = regexp.MustCompile(`^[a-z][a-z0-9]*(_[a-z0-9]+)*$`)
	upper  = regexp.MustCompile(`^[A-Z][A-Z0-9]*(_[A-Z0-9]+)*$`)
)

// lint walks descriptors and gathers what breaks a rule.
type lint struct {
	t *testing.T
	// declared are the full names of everything that is declared.
	declared map[string]bool
	// carried is which method a request or answer belongs to.
	carried map[protoreflect.FullName]string
}

func (l *lint) named(d protoreflect.Descriptor, style *regexp.Regexp) {
	l.declared[string(d.FullName())] = true
	if !style.MatchString(string(d.Name())) {
		l.t.Errorf("%s: the name should match %s", d.FullName(), style)
	}
}

func (l *lint) message(m protoreflect.MessageDescriptor) {
	l.named(m, pascal)
	for i := range m.Fields().Len() {
		l.named(m.Fields().Get(i), snake)
	}
	for i := range m.Oneofs().Len() {
		if o := m.Oneofs().Get(i); !o.IsSynthetic() {
			l.named(o, snake)
		}
	}
	for i := range m.Messages().Len() {
		l.message(m.Messages().Get(i))
	}
	for i := range m.Enums().Len() {
		l.enum(m.Enums().Get(i))
	}
}

func (l *lint) enum(e protoreflect.EnumDescriptor) {
	l.named(e, pascal)
	prefix := strings.ToUpper(regexp.MustCompile(`([a-z0-9])([A-Z])`).ReplaceAllString(string(e.Name()), "${1}_${2}")) + "_"
	for i := range e.Values().Len() {
		v := e.Values().Get(i)
		l.named(v, upper)
		// A value is a name of the scope that the enum is in; for the comments it belongs to the enum.
		delete(l.declared, string(v.FullName()))
		l.declared[string(e.FullName())+"."+string(v.Name())] = true
		if !strings.HasPrefix(string(v.Name()), prefix) {
			l.t.Errorf("%s: should begin with %s", v.FullName(), prefix)
		}
		if v.Number() == 0 && string(v.Name()) != prefix+"UNSPECIFIED" {
			l.t.Errorf("%s: zero should be %sUNSPECIFIED", v.FullName(), prefix)
		}
	}
}

func (l *lint) service(s protoreflect.ServiceDescriptor) {
	l.named(s, pascal)
	for i := range s.Methods().Len() {
		m := s.Methods().Get(i)
		l.named(m, pascal)
		for d, want := range map[protoreflect.MessageDescriptor]string{m.Input(): string(m.Name()) + "Request", m.Output(): string(m.Name()) + "Response"} {
			if string(d.Name()) != want {
				l.t.Errorf("%s: %s should be %s", m.FullName(), d.Name(), want)
			}
			if other, taken := l.carried[d.FullName()]; taken {
				l.t.Errorf("%s: %s is %s's too", m.FullName(), d.Name(), other)
			}
			l.carried[d.FullName()] = string(m.FullName())
		}
	}
}

var (
	opening = regexp.MustCompile(`^\s*(message|enum|service|oneof)\s+(\w+)\s*\{(\})?`)
	method  = regexp.MustCompile(`^\s*rpc\s+(\w+)\(`)
	field   = regexp.MustCompile(`^\s*(?:repeated |optional )?(?:[\w.]+\s+)?(\w+)\s*=\s*\d+;`)
)

// commented reads a .proto file and answers what is declared in it, and whether a comment stands above.
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

// TestThePublicProtocolIsNamedAndDescribed holds kontiki.v1 to the rules of buf's STANDARD category (but for the suffix Service:
// the package says it), and wants a comment that begins with its name for everything that a client can see.
func TestThePublicProtocolIsNamedAndDescribed(t *testing.T) {
	all := 0
	for _, file := range publicFiles {
		if want := "kontiki/v1"; string(file.Package()) != "kontiki.v1" || path.Dir(file.Path()) != want || !snake.MatchString(strings.TrimSuffix(path.Base(file.Path()), ".proto")) {
			t.Errorf("%s: package %s should be a file in lower_snake_case under %s", file.Path(), file.Package(), want)
		}
		l := &lint{t, map[string]bool{}, map[protoreflect.FullName]string{}}
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
		for name := range l.declared {
			has, ok := found[name]
			if !ok {
				t.Errorf("%s: %s is not found in the source; regenerate, or teach this test its form", file.Path(), name)
			} else if !has {
				t.Errorf("%s: %s has no comment that names it", file.Path(), name)
			}
		}
		for name := range found {
			if !l.declared[name] {
				t.Errorf("%s: %s is not in the generated code; run make generate", file.Path(), name)
			}
		}
		all += len(found)
	}
	if all < 200 {
		t.Error(fmt.Sprint("only ", all, " declarations were looked at"))
	}
}
