package openapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// Part is what a document of version 2 says of one group version: its paths, and what they refer to. It is immutable.
type Part struct {
	prefix            string
	paths, parameters map[string]json.RawMessage
	schemas           Schemas
}

var parameterReference = regexp.MustCompile(`"#/parameters/([^"]+)"`)

// PartOf returns what a document of version 2 says of the group version whose paths begin with a prefix ("/apis/example.com/v1"), nil if it says
// nothing. The document may be anyone's: an error says that it is none, or refers to what it lacks.
func PartOf(document []byte, prefix string) (*Part, error) {
	var doc struct {
		Swagger           string
		Paths, Parameters map[string]any
		Definitions       map[string]any
	}
	decoder := json.NewDecoder(bytes.NewReader(document))
	decoder.UseNumber()
	if err := decoder.Decode(&doc); err != nil {
		return nil, err
	}
	if doc.Swagger != "2.0" {
		return nil, fmt.Errorf("it is no document of OpenAPI v2: swagger is %.20q", doc.Swagger)
	}
	maps.DeleteFunc(doc.Paths, func(path string, _ any) bool { return !within(path, prefix) })
	if len(doc.Paths) == 0 {
		return nil, nil
	}
	// Everything is encoded again: texts without needless escapes can be compared, and references can be found in them.
	p := &Part{prefix: prefix}
	var err error
	if p.paths, err = encoded(doc.Paths); err != nil {
		return nil, err
	}
	all, err := encoded(doc.Definitions)
	if err != nil {
		return nil, err
	}
	if p.parameters, err = encoded(doc.Parameters); err != nil {
		return nil, err
	}
	paths, err := json.Marshal(p.paths)
	if err != nil {
		return nil, err
	}
	used := map[string]bool{}
	for _, match := range parameterReference.FindAllSubmatch(paths, -1) {
		used[string(match[1])] = true
	}
	maps.DeleteFunc(p.parameters, func(name string, _ json.RawMessage) bool { return !used[name] })
	if len(p.parameters) < len(used) {
		return nil, errors.New("it refers to parameters that it lacks")
	}
	parameters, err := json.Marshal(p.parameters)
	if err != nil {
		return nil, err
	}
	p.schemas = reachable(slices.Concat(paths, parameters), all)
	for name, schema := range p.schemas {
		if schema == nil {
			return nil, fmt.Errorf("it lacks the definition %.200q", name)
		}
	}
	if _, err := p.proto(&document2{fields: map[string]json.RawMessage{"swagger": json.RawMessage(`"2.0"`), "info": json.RawMessage(`{"title":"","version":""}`)}}); err != nil {
		return nil, err
	}
	return p, nil
}

func within(path, prefix string) bool { return path == prefix || strings.HasPrefix(path, prefix+"/") }

func encoded(values map[string]any) (map[string]json.RawMessage, error) {
	out := map[string]json.RawMessage{}
	for name, value := range values {
		text, err := json.Marshal(value)
		if err != nil {
			return nil, err
		}
		out[name] = text
	}
	return out, nil
}

// document2 is a document of version 2 in parts.
type document2 struct {
	fields            map[string]json.RawMessage
	paths, parameters map[string]json.RawMessage
	schemas           Schemas
}

func parse2(packed []byte) (*document2, error) {
	d, err := parse(packed)
	if err != nil {
		return nil, err
	}
	out := &document2{fields: d.fields, paths: d.paths, parameters: map[string]json.RawMessage{}, schemas: d.schemas}
	if text, ok := d.fields["parameters"]; ok {
		err = json.Unmarshal(text, &out.parameters)
	}
	return out, err
}

func (d *document2) encode() ([]byte, error) {
	fields := maps.Clone(d.fields)
	for name, value := range map[string]any{"paths": d.paths, "parameters": d.parameters, "definitions": d.schemas} {
		text, err := json.Marshal(value)
		if err != nil {
			return nil, err
		}
		fields[name] = text
	}
	if len(d.parameters) == 0 {
		delete(fields, "parameters")
	}
	return json.Marshal(fields)
}

// proto returns a document in protobuf that has the part alone, with the head of another one.
func (p *Part) proto(head *document2) ([]byte, error) {
	small := &document2{fields: maps.Clone(head.fields), paths: p.paths, parameters: p.parameters, schemas: p.schemas}
	delete(small.fields, "security")
	delete(small.fields, "securityDefinitions")
	text, err := small.encode()
	if err != nil {
		return nil, err
	}
	return Proto(text)
}

// cut removes the paths of group versions, and what no path needs then. It returns whether there were any.
func (d *document2) cut(prefixes []string) (bool, error) {
	before := len(d.paths)
	maps.DeleteFunc(d.paths, func(path string, _ json.RawMessage) bool {
		return slices.ContainsFunc(prefixes, func(prefix string) bool { return within(path, prefix) })
	})
	if len(d.paths) == before {
		return false, nil
	}
	paths, err := json.Marshal(d.paths)
	if err != nil {
		return false, err
	}
	parameters, err := json.Marshal(d.parameters)
	if err != nil {
		return false, err
	}
	d.schemas = reachable(slices.Concat(paths, parameters), d.schemas)
	return true, nil
}

// fit returns what a part adds to the document. A definition that the document has under the same name with other content gets another name, as
// upstream does: "io.k8s…ObjectMeta_v2".
func (d *document2) fit(p *Part) (*Part, error) {
	for name, text := range p.parameters {
		if own, ok := d.parameters[name]; ok {
			if same, err := alike(own, text); err != nil || !same {
				return nil, errors.Join(err, fmt.Errorf("the parameter %.200q differs from that of others", name)) // names contain hashes
			}
		}
	}
	names, err := d.names(p)
	if err != nil {
		return nil, err
	}
	rename := func(text json.RawMessage) json.RawMessage {
		return reference.ReplaceAllFunc(text, func(match []byte) []byte {
			name := reference.FindSubmatch(match)[1]
			return fmt.Appendf(nil, `"%s"`, Ref(names[string(name)], true))
		})
	}
	out := &Part{prefix: p.prefix, paths: map[string]json.RawMessage{}, parameters: map[string]json.RawMessage{}, schemas: Schemas{}}
	for path, text := range p.paths {
		out.paths[path] = rename(text)
	}
	for name, text := range p.parameters {
		if _, ok := d.parameters[name]; !ok {
			out.parameters[name] = rename(text)
		}
	}
	for name, text := range p.schemas {
		if _, ok := d.schemas[names[name]]; !ok {
			out.schemas[names[name]] = rename(text)
		}
	}
	return out, nil
}

// names returns the names that the definitions of a part have in the document.
func (d *document2) names(p *Part) (map[string]string, error) {
	names := map[string]string{}
	differs := map[string]bool{}
	for name, text := range p.schemas {
		names[name] = name
		own, ok := d.schemas[name]
		if !ok {
			continue
		}
		same, err := alike(own, text)
		if err != nil {
			return nil, err
		}
		differs[name] = !same
	}
	// What refers to a definition that differs, differs too.
	for changed := true; changed; {
		changed = false
		for name, text := range p.schemas {
			if _, shared := d.schemas[name]; !shared || differs[name] {
				continue
			}
			for _, match := range reference.FindAllSubmatch(text, -1) {
				if differs[string(match[1])] {
					differs[name], changed = true, true
				}
			}
		}
	}
	for name, other := range differs {
		for i := 2; other; i++ {
			names[name] = fmt.Sprintf("%s_v%d", name, i)
			_, other = d.schemas[names[name]]
		}
	}
	return names, nil
}

// alike says whether two definitions or parameters are the same but for the kinds that they are said to be: those of DeleteOptions are all that
// a server has.
func alike(a, b json.RawMessage) (bool, error) {
	texts := [2][]byte{}
	for i, text := range []json.RawMessage{a, b} {
		var value any
		decoder := json.NewDecoder(bytes.NewReader(text))
		decoder.UseNumber()
		if err := decoder.Decode(&value); err != nil {
			return false, err
		}
		if object, ok := value.(map[string]any); ok {
			delete(object, "x-kubernetes-group-version-kind")
		}
		var err error
		if texts[i], err = json.Marshal(value); err != nil {
			return false, err
		}
	}
	return bytes.Equal(texts[0], texts[1]), nil
}

// add adds what fit returned.
func (d *document2) add(p *Part) {
	maps.Copy(d.paths, p.paths)
	maps.Copy(d.parameters, p.parameters)
	maps.Copy(d.schemas, p.schemas)
}

// Merged returns the documents of version 2 with what extension API servers say, in JSON and protobuf. What the documents say of the group versions
// with the replaced prefixes is left out. A part that cannot be merged is left out, and passed to failed. The functions do their work once.
func (d *Documents) Merged(replaced []string, parts []*Part, failed func(prefix string, err error)) (v2JSON, v2Proto func() ([]byte, error)) {
	type merged struct {
		document *document2
		added    *Part
		whole    bool // nothing was left out
	}
	merge := sync.OnceValues(func() (*merged, error) {
		packed, err := d.V2JSON()
		if err != nil {
			return nil, err
		}
		document, err := parse2(packed)
		if err != nil {
			return nil, err
		}
		cut, err := document.cut(replaced)
		if err != nil {
			return nil, err
		}
		m := &merged{document: document, added: &Part{paths: map[string]json.RawMessage{}, parameters: map[string]json.RawMessage{}, schemas: Schemas{}}, whole: !cut}
		for _, p := range parts {
			fitting, err := document.fit(p)
			if err != nil {
				failed(p.prefix, err)
				continue
			}
			document.add(fitting)
			maps.Copy(m.added.paths, fitting.paths)
			maps.Copy(m.added.parameters, fitting.parameters)
			maps.Copy(m.added.schemas, fitting.schemas)
		}
		return m, nil
	})
	v2JSON = sync.OnceValues(func() ([]byte, error) {
		m, err := merge()
		if err != nil {
			return nil, err
		}
		text, err := m.document.encode()
		if err != nil {
			return nil, err
		}
		return Pack(text)
	})
	v2Proto = sync.OnceValues(func() ([]byte, error) {
		m, err := merge()
		if err != nil {
			return nil, err
		}
		if !m.whole {
			text, err := m.document.encode()
			if err != nil {
				return nil, err
			}
			if text, err = Proto(text); err != nil {
				return nil, err
			}
			return Pack(text)
		}
		packed, err := d.V2Proto()
		if err != nil {
			return nil, err
		}
		binary, err := Unpack(packed)
		if err != nil {
			return nil, err
		}
		more, err := m.added.proto(m.document)
		if err != nil {
			return nil, err
		}
		return Pack(append(binary, more...)) // as in extendV2
	})
	return v2JSON, v2Proto
}
