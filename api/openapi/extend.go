package openapi

import (
	"cmp"
	"crypto/sha512"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/version"

	"github.com/kontiki/kontiki/api/registry"
)

// customKinds returns the kinds that have a schema of their own, by the name of their group version.
func customKinds(table *registry.Table) map[string][]*registry.Kind {
	kinds := map[string][]*registry.Kind{}
	for _, kind := range table.Kinds() {
		if kind.OpenAPI != nil && kind.Life != nil {
			kinds[Name(kind)] = append(kinds[Name(kind)], kind)
		}
	}
	return kinds
}

// identity returns the hash of a document that extends another one, with the hash of that, by kinds. Documents with the same hash are the
// same, on whichever master, although the hash is known before the document is made.
func identity(extends string, kinds []*registry.Kind) string {
	h := sha512.New()
	fmt.Fprintf(h, "1 %s %s", extends, template)
	for _, kind := range kinds {
		fmt.Fprintf(h, " %s %s", kind.GVK(), kind.Life.Identity)
	}
	return fmt.Sprintf("%X", h.Sum(nil))
}

// supporting are the schemas of the template that do not describe its own resources, and its head.
var supporting = sync.OnceValues(func() (document, error) {
	packed, err := read(FileName(template))
	if err != nil {
		return document{}, err
	}
	return parse(packed)
})

// document is a document of version 3 in parts.
type document struct {
	fields  map[string]json.RawMessage
	paths   map[string]json.RawMessage
	schemas Schemas
}

func parse(packed []byte) (d document, err error) {
	text, err := Unpack(packed)
	if err != nil {
		return d, err
	}
	if err := json.Unmarshal(text, &d.fields); err != nil {
		return d, err
	}
	if err := json.Unmarshal(d.fields["paths"], &d.paths); err != nil {
		return d, err
	}
	var components struct{ Schemas Schemas }
	if raw, ok := d.fields["components"]; ok {
		err = json.Unmarshal(raw, &components)
		d.schemas = components.Schemas
	} else {
		err = json.Unmarshal(d.fields["definitions"], &d.schemas)
	}
	return d, err
}

// extended returns a document of version 3, which extends another one unless that is nil, with the paths and schemas of custom kinds.
func extended(base []byte, kinds []*registry.Kind) ([]byte, error) {
	support, err := supporting()
	if err != nil {
		return nil, err
	}
	d := document{fields: map[string]json.RawMessage{"openapi": support.fields["openapi"], "info": support.fields["info"]}, paths: map[string]json.RawMessage{}, schemas: Schemas{}}
	if base != nil {
		if d, err = parse(base); err != nil {
			return nil, err
		}
	}
	available := maps.Clone(support.schemas)
	maps.Copy(available, d.schemas)
	for _, kind := range kinds {
		p, err := partOf(kind, false)
		if err != nil {
			return nil, err
		}
		maps.Copy(d.paths, p.paths)
		maps.Copy(available, p.schemas)
	}
	if d.fields["paths"], err = json.Marshal(d.paths); err != nil {
		return nil, err
	}
	components, err := json.Marshal(map[string]any{"schemas": reachable(d.fields["paths"], available)})
	if err != nil {
		return nil, err
	}
	d.fields["components"] = components
	text, err := json.Marshal(d.fields)
	if err != nil {
		return nil, err
	}
	return Pack(text)
}

// The documents of version 2 describe everything at once, and making them takes a multiple of their size. So they have less of what is too much:
// of each definition the first versions that fit, and further definitions until the documents are full. Those of version 3 have all.
const (
	maxDefinitionV2 = 8 << 20
	maxCustomV2     = 64 << 20
)

// addedV2 returns what custom kinds add to the documents of version 2; the same on whichever master.
func addedV2(custom map[string][]*registry.Kind) (*part, error) {
	kinds := slices.Concat(slices.Collect(maps.Values(custom))...)
	slices.SortFunc(kinds, func(a, b *registry.Kind) int {
		return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.Resource, b.Resource), version.CompareKubeAwareVersionStrings(b.Version, a.Version))
	})
	all := &part{paths: map[string]json.RawMessage{}, schemas: Schemas{}}
	total, sizes := 0, map[*registry.Life]int{} // a definition that is full has the most
	for _, kind := range kinds {
		if sizes[kind.Life] > maxDefinitionV2 || total > maxCustomV2 {
			continue
		}
		p, err := partOf(kind, true)
		if err != nil {
			return nil, err
		}
		size := p.size()
		if sizes[kind.Life] += size; sizes[kind.Life] > maxDefinitionV2 || total+size > maxCustomV2 {
			continue
		}
		total += size
		maps.Copy(all.paths, p.paths)
		maps.Copy(all.schemas, p.schemas)
	}
	return all, nil
}

func (p *part) size() (size int) {
	for _, text := range p.paths {
		size += len(text)
	}
	for _, text := range p.schemas {
		size += len(text)
	}
	return size
}

// extendV2 adds custom kinds to the documents of version 2.
func (d *Documents) extendV2(custom map[string][]*registry.Kind) {
	added := sync.OnceValues(func() (*part, error) { return addedV2(custom) })
	baseJSON, baseProto := d.V2JSON, d.V2Proto
	d.V2JSON = sync.OnceValues(func() ([]byte, error) {
		packed, err := baseJSON()
		if err != nil {
			return nil, err
		}
		doc, err := parse(packed)
		if err != nil {
			return nil, err
		}
		more, err := added()
		if err != nil {
			return nil, err
		}
		maps.Copy(doc.paths, more.paths)
		maps.Copy(doc.schemas, more.schemas)
		return doc.packV2(doc.paths, doc.schemas)
	})
	d.V2Proto = sync.OnceValues(func() ([]byte, error) {
		packed, err := baseProto()
		if err != nil {
			return nil, err
		}
		binary, err := Unpack(packed)
		if err != nil {
			return nil, err
		}
		head, err := baseJSON()
		if err != nil {
			return nil, err
		}
		doc, err := parse(head)
		if err != nil {
			return nil, err
		}
		more, err := added()
		if err != nil {
			return nil, err
		}
		delete(doc.fields, "parameters")
		delete(doc.fields, "security")
		delete(doc.fields, "securityDefinitions")
		small, err := doc.v2(more.paths, more.schemas)
		if err != nil {
			return nil, err
		}
		if small, err = Proto(small); err != nil {
			return nil, err
		}
		// A message followed by another is the message in which both are merged: their paths and definitions are lists.
		return Pack(append(binary, small...))
	})
}

// v2 returns a document of version 2 with the fields of this one, and other paths and schemas.
func (d *document) v2(paths map[string]json.RawMessage, schemas Schemas) ([]byte, error) {
	fields := maps.Clone(d.fields)
	var err error
	if fields["paths"], err = json.Marshal(paths); err != nil {
		return nil, err
	}
	if fields["definitions"], err = json.Marshal(schemas); err != nil {
		return nil, err
	}
	return json.Marshal(fields)
}

func (d *document) packV2(paths map[string]json.RawMessage, schemas Schemas) ([]byte, error) {
	text, err := d.v2(paths, schemas)
	if err != nil {
		return nil, err
	}
	return Pack(text)
}
