package openapi

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kube-openapi/pkg/builder3/util"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/kontiki/kontiki/api/registry"
)

// part is what one custom kind adds to a document: its paths, and its schemas.
type part struct {
	paths   map[string]json.RawMessage
	schemas Schemas
}

// parts keeps the parts of custom kinds as long as the kinds are served.
var parts = struct {
	sync.Mutex
	of map[partKey]func() (*part, error)
}{of: map[partKey]func() (*part, error){}}

type partKey struct {
	kind *registry.Kind
	v2   bool
}

// partOf returns the part of a custom kind.
func partOf(kind *registry.Kind, v2 bool) (*part, error) {
	key := partKey{kind, v2}
	parts.Lock()
	made, ok := parts.of[key]
	if !ok {
		made = sync.OnceValues(func() (*part, error) { return newPart(kind, v2) })
		parts.of[key] = made
		context.AfterFunc(kind.Life.Over, func() {
			parts.Lock()
			defer parts.Unlock()
			delete(parts.of, key)
		})
	}
	parts.Unlock()
	return made()
}

// newPart makes the paths of a kind out of those of deployments, which have all that there is.
func newPart(kind *registry.Kind, v2 bool) (*part, error) {
	templates, err := templatePaths(v2)
	if err != nil {
		return nil, err
	}
	p := &part{paths: map[string]json.RawMessage{}, schemas: Schemas{}}
	a := newAdaptor(kind, v2)
	for path, text := range templates {
		switch {
		case strings.HasSuffix(path, "/status") && kind.Status == nil, strings.HasSuffix(path, "/scale") && kind.Scale == nil,
			!kind.Namespaced && path == templateList:
			continue
		}
		var item any
		if err := json.Unmarshal(text, &item); err != nil {
			return nil, err
		}
		adapted, err := json.Marshal(a.adapt(item))
		if err != nil {
			return nil, err
		}
		p.paths[a.path(path)] = adapted
	}
	schema, err := kind.OpenAPI(v2)
	if err != nil {
		return nil, err
	}
	for name, s := range map[string]*spec.Schema{a.model: schema, a.listModel: listSchema(kind, schema, v2)} {
		if !v2 {
			s = util.WrapRefs(s) // a reference with a description beside it is not valid
		}
		if p.schemas[name], err = json.Marshal(s); err != nil {
			return nil, fmt.Errorf("the schema of %s: %w", name, err)
		}
	}
	return p, nil
}

var (
	listTexts = metav1.PartialObjectMetadataList{}.SwaggerDoc()
	typeTexts = metav1.TypeMeta{}.SwaggerDoc()
)

// listSchema returns the schema of a list of objects.
func listSchema(kind *registry.Kind, of *spec.Schema, v2 bool) *spec.Schema {
	text := fmt.Sprintf("List of %s. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md", kind.Resource)
	s := new(spec.Schema).Typed("object", "").
		WithDescription(fmt.Sprintf("%s is a list of %s", kind.ListKind, kind.Kind)).
		WithRequired("items").
		SetProperty("items", *spec.ArrayProperty(spec.RefSchema(Ref(ModelName(kind.GVK()), v2))).WithDescription(text)).
		SetProperty("metadata", *spec.RefSchema(Ref(ListMeta, v2)).WithDescription(listTexts["metadata"])).
		SetProperty("apiVersion", *spec.StringProperty().WithDescription(typeTexts["apiVersion"])).
		SetProperty("kind", *spec.StringProperty().WithDescription(typeTexts["kind"]))
	s.AddExtension("x-kubernetes-group-version-kind", []any{map[string]any{"group": kind.Group, "version": kind.Version, "kind": kind.ListKind}})
	if fields, ok := of.Extensions["x-kubernetes-selectable-fields"]; ok {
		s.AddExtension("x-kubernetes-selectable-fields", fields)
	}
	return s
}

// The template's group version, resource and kind, as they appear in its document.
const (
	templateList  = "/apis/apps/v1/deployments"
	templateTag   = "apps_v1"
	templateID    = "AppsV1"
	templateKind  = "Deployment"
	templateModel = "io.k8s.api.apps.v1.Deployment"
)

// templatePaths returns the paths of deployments in a document of version 2 or 3.
func templatePaths(v2 bool) (map[string]json.RawMessage, error) {
	if v2 {
		return templatePathsV2()
	}
	return templatePathsV3()
}

var (
	templatePathsV2 = sync.OnceValues(func() (map[string]json.RawMessage, error) { return pathsOfTemplate("v2.json.gz") })
	templatePathsV3 = sync.OnceValues(func() (map[string]json.RawMessage, error) { return pathsOfTemplate(FileName(template)) })
)

func pathsOfTemplate(file string) (map[string]json.RawMessage, error) {
	packed, err := read(file)
	if err != nil {
		return nil, err
	}
	document, err := Unpack(packed)
	if err != nil {
		return nil, err
	}
	var doc struct{ Paths map[string]json.RawMessage }
	if err := json.Unmarshal(document, &doc); err != nil {
		return nil, err
	}
	maps.DeleteFunc(doc.Paths, func(path string, _ json.RawMessage) bool {
		return path != templateList && !strings.HasPrefix(path, "/apis/apps/v1/namespaces/{namespace}/deployments")
	})
	return doc.Paths, nil
}

// adaptor makes what is said about deployments into what is said about a kind.
type adaptor struct {
	kind             *registry.Kind
	model, listModel string
	tag, id          string
	refs             *strings.Replacer
	texts            *strings.Replacer
}

func newAdaptor(kind *registry.Kind, v2 bool) *adaptor {
	a := &adaptor{kind: kind, model: ModelName(kind.GVK())}
	list := kind.GVK()
	list.Kind = kind.ListKind
	a.listModel = ModelName(list)
	for i, word := range strings.FieldsFunc(kind.Group, func(r rune) bool { return r == '.' || r == '-' }) {
		title := strings.ToUpper(word[:1]) + word[1:]
		a.id += title
		if i == 0 {
			title = word
		}
		a.tag += title
	}
	a.id += strings.ToUpper(kind.Version[:1]) + kind.Version[1:]
	a.tag += "_" + kind.Version
	a.refs = strings.NewReplacer(Ref(templateModel+"List", v2), Ref(a.listModel, v2), Ref(templateModel, v2), Ref(a.model, v2))
	a.texts = strings.NewReplacer("list or watch objects of kind "+templateKind, "list objects of kind "+kind.Kind, "a "+templateKind, article(kind.Kind)+" "+kind.Kind,
		templateKind, kind.Kind)
	return a
}

func article(noun string) string {
	if strings.ContainsRune("AEIOU", rune(noun[0])) {
		return "an"
	}
	return "a"
}

// path returns the kind's path that corresponds to one of deployments.
func (a *adaptor) path(path string) string {
	path = strings.Replace(strings.TrimPrefix(path, "/apis/apps/v1"), "/deployments", "/"+a.kind.Resource, 1)
	if !a.kind.Namespaced {
		path = strings.TrimPrefix(path, "/namespaces/{namespace}")
	}
	return "/apis/" + a.kind.Group + "/" + a.kind.Version + path
}

// unknownMedia says whether custom resources are not read or written in a media type.
func unknownMedia(media string) bool {
	return strings.Contains(media, "protobuf") || strings.Contains(media, "cbor") || strings.Contains(media, "strategic-merge-patch") || strings.Contains(media, "stream=watch")
}

// adapt changes a JSON document in place, and returns it.
func (a *adaptor) adapt(value any) any {
	switch value := value.(type) {
	case map[string]any:
		for key, field := range value {
			if unknownMedia(key) {
				delete(value, key)
				continue
			}
			value[key] = a.field(key, field)
		}
	case []any:
		kept := value[:0]
		for _, item := range value {
			if a.drops(item) {
				continue
			}
			kept = append(kept, a.adapt(item))
		}
		return kept
	}
	return value
}

// drops says whether an item of a list does not concern the kind: a media type, or the parameter of the namespace.
func (a *adaptor) drops(item any) bool {
	switch item := item.(type) {
	case string:
		return unknownMedia(item)
	case map[string]any:
		ref, _ := item["$ref"].(string)
		return !a.kind.Namespaced && (item["name"] == "namespace" && item["in"] == "path" || strings.HasPrefix(ref, "#/parameters/namespace-"))
	}
	return false
}

func (a *adaptor) field(key string, value any) any {
	text, isText := value.(string)
	switch {
	case key == "$ref" && isText:
		return a.refs.Replace(text)
	case key == "operationId" && isText:
		if !a.kind.Namespaced {
			text = strings.Replace(text, "Namespaced", "", 1)
		}
		return strings.Replace(strings.Replace(text, templateID, a.id, 1), templateKind, a.kind.Kind, 1)
	case key == "description" && isText:
		return a.texts.Replace(text)
	case key == "tags":
		return []any{a.tag}
	case key == "x-kubernetes-group-version-kind":
		return map[string]any{"group": a.kind.Group, "version": a.kind.Version, "kind": a.kind.Kind}
	}
	return a.adapt(value)
}
