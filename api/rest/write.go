package rest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	k8sjson "k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"sigs.k8s.io/yaml"

	"github.com/kontiki/kontiki/api/audit"
	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/internal/aliases"
	"github.com/kontiki/kontiki/internal/kv"
)

type objectOf = registry.Object

var (
	jsonEncoder  = k8sjson.NewSerializerWithOptions(k8sjson.DefaultMetaFactory, registry.Scheme, registry.Scheme, k8sjson.SerializerOptions{})
	protoEncoder = protobuf.NewSerializer(registry.Scheme, registry.Scheme)
)

// write sends a finished body.
func (c *call) write(a accepted, code int, body []byte) error {
	if len(body) > gzipThreshold {
		w := &bodyWriter{call: c, as: a, code: code, buf: body}
		_ = w.finish(nil) // an error means that the client has disconnected
		return nil
	}
	c.beginBody(a.contentType(), code, false)
	c.w.Write(body) // an error means that the client has disconnected
	return nil
}

// writeJSONBody sends JSON in the requested encoding.
func (c *call) writeJSONBody(a accepted, code int, body []byte) error {
	switch {
	case a.encoding == objects.YAML:
		converted, err := yaml.JSONToYAML(body)
		if err != nil {
			return apierrors.NewInternalError(err)
		}
		return c.write(a, code, converted)
	case a.pretty:
		var buf bytes.Buffer
		if err := json.Indent(&buf, body, "", "  "); err != nil {
			return apierrors.NewInternalError(err)
		}
		buf.WriteByte('\n')
		return c.write(a, code, buf.Bytes())
	}
	return c.write(a, code, withNewline(body))
}

// withNewline returns the JSON with a newline. Serializers end what they encode with one, and it is still there, after the end of the
// slice: then nothing is copied.
func withNewline(body []byte) []byte {
	if n := len(body); cap(body) > n && body[:n+1][n] == '\n' {
		return body[:n+1]
	}
	return append(body[:len(body):len(body)], '\n')
}

// writeWritten sends the object that a write has returned.
func (c *call) writeWritten(a accepted, code int, r *objects.Request, obj registry.Object) error {
	if !r.DryRun && c.kind.Stored() {
		if v, ok := c.Objects.Written(c.kind, obj); ok {
			return c.writeVersion(a, code, v)
		}
	}
	return c.writeObject(a, code, obj)
}

// writeVersion sends a stored version from its shared encodings.
func (c *call) writeVersion(a accepted, code int, v *kv.Version) error {
	switch a.as {
	case asTable:
		p, err := c.Objects.Printable(c.kind, v)
		if err != nil {
			return apierrors.NewInternalError(err)
		}
		return c.writeTable(a, code, p)
	case asMetadata:
		m, err := c.Objects.Metadata(c.kind, v)
		if err != nil {
			return apierrors.NewInternalError(err)
		}
		return c.writeOther(a, code, metadataOf(m))
	}
	if c.record.WantsResponse() {
		body, err := c.Objects.JSON(c.kind, v)
		if err != nil {
			return apierrors.NewInternalError(err)
		}
		c.record.ResponseJSON(body)
	}
	if a.encoding == objects.Protobuf {
		body, err := c.Objects.Enveloped(c.kind, v)
		if err != nil {
			return apierrors.NewInternalError(err)
		}
		return c.write(a, code, body)
	}
	body, err := c.Objects.JSON(c.kind, v)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	return c.writeJSONBody(a, code, body)
}

// writeObject sends an object of the request's kind.
func (c *call) writeObject(a accepted, code int, obj registry.Object) error {
	switch a.as {
	case asTable:
		p, err := objects.PrintableOf(c.kind, obj.DeepCopyObject().(registry.Object))
		if err != nil {
			return apierrors.NewInternalError(err)
		}
		return c.writeTable(a, code, p)
	case asMetadata:
		return c.writeOther(a, code, metadataOf(obj))
	}
	return c.writeOther(a, code, obj)
}

// writeTable sends an object as a table.
func (c *call) writeTable(a accepted, code int, p *objects.Printable) error {
	options, err := c.tableOptions()
	if err != nil {
		return err
	}
	table, err := c.tables.of(c.kind, p, options)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	return c.writeOther(a, code, table)
}

// writeOther sends any object that has its type set.
func (c *call) writeOther(a accepted, code int, obj runtime.Object) error {
	c.record.Response(obj)
	body, err := a.encode(obj)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	if a.encoding == objects.Protobuf {
		return c.write(a, code, body)
	}
	return c.writeJSONBody(a, code, body)
}

// encodeObject encodes an object; YAML is returned as JSON, for writeJSONBody to convert.
func encodeObject(encoding objects.Encoding, obj runtime.Object) ([]byte, error) {
	if encoding == objects.Protobuf {
		return runtime.Encode(protoEncoder, obj)
	}
	body, err := runtime.Encode(jsonEncoder, obj)
	return bytes.TrimRight(body, "\n"), err
}

func metadataOf(obj registry.Object) *metav1.PartialObjectMetadata {
	return &metav1.PartialObjectMetadata{
		TypeMeta: metav1.TypeMeta{Kind: "PartialObjectMetadata", APIVersion: "meta.k8s.io/v1"},
		ObjectMeta: metav1.ObjectMeta{
			Name: obj.GetName(), GenerateName: obj.GetGenerateName(), Namespace: obj.GetNamespace(), UID: obj.GetUID(),
			ResourceVersion: obj.GetResourceVersion(), Generation: obj.GetGeneration(), CreationTimestamp: obj.GetCreationTimestamp(),
			DeletionTimestamp: obj.GetDeletionTimestamp(), DeletionGracePeriodSeconds: obj.GetDeletionGracePeriodSeconds(),
			Labels: obj.GetLabels(), Annotations: obj.GetAnnotations(), OwnerReferences: obj.GetOwnerReferences(),
			Finalizers: obj.GetFinalizers(), ManagedFields: obj.GetManagedFields(),
		},
	}
}

// writeError sends an error as a Status, in the requested encoding.
func writeError(w http.ResponseWriter, r *http.Request, err error) {
	status := objects.StatusOf(err)
	audit.From(r.Context()).Failed(status)
	encoding := objects.JSON
	if a, negotiationErr := negotiate(r); negotiationErr == nil {
		encoding = a.encoding
	}
	if status.Details != nil && status.Details.RetryAfterSeconds > 0 {
		w.Header().Set("Retry-After", fmt.Sprint(status.Details.RetryAfterSeconds))
	}
	body, encodeErr := encodeObject(encoding, status)
	if encodeErr != nil {
		http.Error(w, status.Message, int(status.Code))
		return
	}
	contentType := typeJSON
	switch encoding {
	case objects.Protobuf:
		contentType = typeProtobuf
	case objects.YAML:
		if converted, err := yaml.JSONToYAML(body); err == nil {
			body, contentType = converted, typeYAML
		}
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "no-cache, private")
	w.WriteHeader(int(status.Code))
	w.Write(body)
}

func writeJSON(w http.ResponseWriter, code int, value any) {
	body, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", typeJSON)
	w.WriteHeader(code)
	w.Write(body)
}

// decodeDeleteOptions decodes a body whose type may be in any group that serves deletions.
func decodeDeleteOptions(data []byte, encoding objects.Encoding) (*metav1.DeleteOptions, error) {
	o := &metav1.DeleteOptions{}
	var err error
	if encoding == objects.Protobuf {
		var raw []byte
		if raw, err = registry.Unwrap(data); err == nil {
			err = o.Unmarshal(raw)
		}
	} else if err = aliases.Check(data, objects.MaxBodyBytes); err == nil {
		err = yaml.Unmarshal(data, o)
	}
	if err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("the body could not be read as DeleteOptions: %v", err))
	}
	if o.Kind != "" && !strings.HasSuffix(o.Kind, "DeleteOptions") {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("kind: the body of a deletion must be DeleteOptions, not %s", o.Kind))
	}
	return o, nil
}
