package rest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1beta1 "k8s.io/apimachinery/pkg/apis/meta/v1beta1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/kontiki/kontiki/api/objects"
)

// writeList sends a list item by item, whatever its form: no more than a few items are in memory at a time.
func (c *call) writeList(a accepted, result *objects.ListResult) error {
	meta := &metav1.ListMeta{ResourceVersion: objects.FormatRevision(result.Revision), Continue: result.Continue, RemainingItemCount: result.Remaining}
	list := listBody{kind: c.kind.ListKind, apiVersion: c.kind.GroupVersion().String(), meta: meta, name: "items", n: len(result.Items),
		item: func(i int) ([]byte, error) { return c.Objects.JSONItem(c.kind, result.Items[i]) }}
	protobuf := func(write func([]byte) error) error {
		return c.Objects.WriteProtoList(c.kind, result.Items, meta, write)
	}
	switch a.as {
	case asTable:
		options, err := c.tableOptions()
		if err != nil {
			return err
		}
		if err := c.tableBody(a, result, options, &list); err != nil {
			return apierrors.NewInternalError(err)
		}
	case asMetadata:
		list.kind, list.apiVersion = "PartialObjectMetadataList", a.metaVersion().String()
		list.item = func(i int) ([]byte, error) {
			m, err := c.metadata(a, result, i)
			if err != nil {
				return nil, err
			}
			return json.Marshal(m)
		}
		protobuf = func(write func([]byte) error) error {
			return c.Objects.WriteProtoMetadata(c.kind, a.metaVersion(), result.Items, meta, write)
		}
	}
	if c.record.WantsResponse() {
		var body bytes.Buffer
		if err := list.writeJSON(func(part []byte) error { body.Write(part); return nil }); err != nil {
			return apierrors.NewInternalError(err)
		}
		c.record.ResponseJSON(body.Bytes())
	}
	switch {
	case a.encoding == objects.Protobuf:
		return c.streamList(a, protobuf)
	case a.encoding == objects.YAML:
		return c.streamList(a, list.writeYAML)
	case a.pretty:
		return c.streamList(a, list.writeIndented)
	case a.as == asIs:
		return c.streamList(a, func(write func([]byte) error) error {
			if err := c.Objects.WriteJSONList(c.kind, result.Items, meta, write); err != nil {
				return err
			}
			return write(newline)
		})
	}
	return c.streamList(a, func(write func([]byte) error) error {
		if err := list.writeJSON(write); err != nil {
			return err
		}
		return write(newline)
	})
}

var newline = []byte("\n")

// streamList sends what produce passes to its parameter.
func (c *call) streamList(a accepted, produce func(write func([]byte) error) error) error {
	w := &bodyWriter{call: c, as: a, code: http.StatusOK}
	var gone error // the client has disconnected
	err := produce(func(part []byte) error {
		gone = w.add(part)
		return gone
	})
	if gone != nil {
		_ = w.finish(gone)
		return nil
	}
	_ = w.finish(err) // a second error means that the client has disconnected
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	return nil
}

// metaVersion is the version of tables and metadata that the client asked for.
func (a accepted) metaVersion() schema.GroupVersion {
	if a.beta {
		return metav1beta1.SchemeGroupVersion
	}
	return metav1.SchemeGroupVersion
}

// metadata returns the metadata of an item of a list.
func (c *call) metadata(a accepted, result *objects.ListResult, i int) (*metav1.PartialObjectMetadata, error) {
	m, err := c.Objects.FreshMetadata(c.kind, result.Items[i])
	if err != nil {
		return nil, err
	}
	m.APIVersion = a.metaVersion().String()
	return m, nil
}

// maxKeptRows is up to which length the objects of a list are kept as they are printed, for the next table: that of kubectl's pages.
const maxKeptRows = 500

// tableBody makes a list a table with a row for each item.
func (c *call) tableBody(a accepted, result *objects.ListResult, o *metav1.TableOptions, list *listBody) error {
	printable := c.Objects.Printable
	if len(result.Items) > maxKeptRows {
		printable = c.Objects.FreshPrintable
	}
	first, err := objects.PrintableOf(c.kind, c.kind.New())
	if err == nil && len(result.Items) > 0 {
		first, err = printable(c.kind, result.Items[0])
	}
	if err != nil {
		return err
	}
	columns, err := c.tables.print(c.kind, first, o)
	if err != nil {
		return err
	}
	definitions, err := json.Marshal(columns.ColumnDefinitions)
	if err != nil {
		return err
	}
	list.kind, list.apiVersion, list.name = tableType.Kind, a.metaVersion().String(), "rows"
	list.fields = []listField{{"columnDefinitions", definitions}}
	list.item = func(i int) ([]byte, error) {
		p, err := printable(c.kind, result.Items[i])
		if err != nil {
			return nil, err
		}
		table, err := c.tables.print(c.kind, p, o)
		if err != nil {
			return nil, err
		}
		if len(table.Rows) != 1 {
			return nil, fmt.Errorf("%s is printed in %d rows", c.kind.Kind, len(table.Rows))
		}
		row := table.Rows[0]
		row.Object = includedIn(o, p.Object)
		if a.beta {
			setMetaVersion(row.Object.Object, a.metaVersion().String())
		}
		return json.Marshal(row)
	}
	return nil
}

// listBody is a list that is written item by item.
type listBody struct {
	kind, apiVersion string
	meta             *metav1.ListMeta
	fields           []listField // further ones, before the list
	name             string      // of the field that is the list
	n                int
	item             func(i int) ([]byte, error) // JSON, read-only
}

type listField struct {
	name string
	json []byte
}

// head returns the fields but for the list, as JSON objects with one field each, in JSON's order.
func (l *listBody) head() ([]listField, error) {
	meta, err := json.Marshal(l.meta)
	if err != nil {
		return nil, err
	}
	return append([]listField{{"kind", fmt.Appendf(nil, "%q", l.kind)}, {"apiVersion", fmt.Appendf(nil, "%q", l.apiVersion)}, {"metadata", meta}}, l.fields...), nil
}

// writeJSON passes the list to write as JSON, without a newline at its end.
func (l *listBody) writeJSON(write func([]byte) error) error {
	fields, err := l.head()
	if err != nil {
		return err
	}
	head := []byte("{")
	for _, f := range fields {
		head = fmt.Appendf(head, "%q:%s,", f.name, f.json)
	}
	if err := write(fmt.Appendf(head, "%q:[", l.name)); err != nil {
		return err
	}
	for i := range l.n {
		item, err := l.item(i)
		if err != nil {
			return err
		}
		if i > 0 {
			if err := write([]byte(",")); err != nil {
				return err
			}
		}
		if err := write(item); err != nil {
			return err
		}
	}
	return write([]byte("]}"))
}

// writeIndented is writeJSON for people.
func (l *listBody) writeIndented(write func([]byte) error) error {
	fields, err := l.head()
	if err != nil {
		return err
	}
	var buf bytes.Buffer
	buf.WriteString("{\n")
	for _, f := range fields {
		fmt.Fprintf(&buf, "  %q: ", f.name)
		if err := json.Indent(&buf, f.json, "  ", "  "); err != nil {
			return err
		}
		buf.WriteString(",\n")
	}
	fmt.Fprintf(&buf, "  %q: [", l.name)
	for i := range l.n {
		item, err := l.item(i)
		if err != nil {
			return err
		}
		if i > 0 {
			buf.WriteByte(',')
		}
		buf.WriteString("\n    ")
		if err := json.Indent(&buf, item, "    ", "  "); err != nil {
			return err
		}
		if err := write(buf.Bytes()); err != nil {
			return err
		}
		buf.Reset()
	}
	if l.n > 0 {
		buf.WriteString("\n  ")
	}
	buf.WriteString("]\n}\n")
	return write(buf.Bytes())
}

// writeYAML passes the list to write as YAML, whose fields are sorted by name.
func (l *listBody) writeYAML(write func([]byte) error) error {
	fields, err := l.head()
	if err != nil {
		return err
	}
	before, after := map[string]json.RawMessage{}, map[string]json.RawMessage{}
	for _, f := range fields {
		if f.name < l.name {
			before[f.name] = f.json
		} else {
			after[f.name] = f.json
		}
	}
	if err := writeFields(write, before); err != nil {
		return err
	}
	head := l.name + ":\n"
	if l.n == 0 {
		head = l.name + ": []\n"
	}
	if err := write([]byte(head)); err != nil {
		return err
	}
	var buf bytes.Buffer
	for i := range l.n {
		item, err := l.item(i)
		if err != nil {
			return err
		}
		text, err := yaml.JSONToYAML(item)
		if err != nil {
			return err
		}
		buf.Reset()
		indent := "- "
		for line := range bytes.Lines(text) {
			if len(line) > 1 { // an empty line of a text stays empty
				buf.WriteString(indent)
			}
			buf.Write(line)
			indent = "  "
		}
		if err := write(buf.Bytes()); err != nil {
			return err
		}
	}
	return writeFields(write, after)
}

func writeFields(write func([]byte) error, fields map[string]json.RawMessage) error {
	if len(fields) == 0 {
		return nil
	}
	whole, err := json.Marshal(fields)
	if err != nil {
		return err
	}
	text, err := yaml.JSONToYAML(whole)
	if err != nil {
		return err
	}
	return write(text)
}
