package top

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/duration"
)

// Bounds of what is kept, whatever the cluster sends.
const (
	maxRows    = 30000
	maxColumns = 40
	maxKinds   = 5000
	maxLines   = 10000
	cellBytes  = 256
	lineBytes  = 4096
	pageRows   = 500
	pageBytes  = 64 << 20 // of one page of a list
	eventBytes = 4 << 20  // of one event of a watch
	textBytes  = 8 << 20  // of one object
)

// Column is a column of a table.
type Column struct {
	Name string
	Wide bool // shown when wide columns are
}

// Row is an object in a table. It does not change once it is made.
type Row struct {
	Namespace, Name, UID string
	Created              time.Time
	Cells                []string // clean
}

// key identifies the object. Rows of what is not stored, such as metrics, have no UID.
func (r *Row) key() string {
	if r.UID != "" {
		return r.UID
	}
	return r.Namespace + "/" + r.Name
}

// tableDocument is a Table of meta.k8s.io/v1.
type tableDocument struct {
	Metadata struct {
		ResourceVersion    string
		Continue           string
		RemainingItemCount int64
	}
	ColumnDefinitions []struct {
		Name     string
		Priority int32
	}
	Rows []struct {
		Cells  []any
		Object struct {
			Metadata struct {
				Namespace, Name, UID string
				ResourceVersion      string
				CreationTimestamp    time.Time
			}
		}
	}
	// Those of a Status, which events of a watch may be.
	Kind, Message string
	Code          int
}

func (d *tableDocument) columns() []Column {
	var out []Column
	for _, c := range d.ColumnDefinitions {
		if len(out) == maxColumns {
			break
		}
		out = append(out, Column{Name: strings.ToUpper(clean(c.Name, 64)), Wide: c.Priority > 0})
	}
	return out
}

func (d *tableDocument) rows() []*Row {
	out := make([]*Row, 0, len(d.Rows))
	for i := range d.Rows {
		meta := &d.Rows[i].Object.Metadata
		r := &Row{Namespace: meta.Namespace, Name: meta.Name, UID: meta.UID, Created: meta.CreationTimestamp}
		for _, cell := range d.Rows[i].Cells[:min(maxColumns, len(d.Rows[i].Cells))] {
			r.Cells = append(r.Cells, cellText(cell))
		}
		out = append(out, r)
	}
	return out
}

func cellText(cell any) string {
	switch v := cell.(type) {
	case nil:
		return "<none>"
	case string:
		return strings.Clone(clean(v, cellBytes)) // not a part of a long string, which would be kept
	case json.Number, bool:
		return clean(fmt.Sprint(v), cellBytes)
	}
	text, err := json.Marshal(cell)
	if err != nil {
		return "<unknown>"
	}
	return clean(string(text), cellBytes)
}

// age is how long ago a time was, as kubectl shows it.
func age(created, now time.Time) string {
	if created.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(now.Sub(created))
}

// natural compares texts, and numbers in them by their values: "web-9" is before "web-10".
func natural(a, b string) int {
	for a != "" && b != "" {
		if digit(a[0]) && digit(b[0]) {
			x, restA := number(a)
			y, restB := number(b)
			if len(x) != len(y) {
				return len(x) - len(y)
			}
			if x != y {
				return strings.Compare(x, y)
			}
			a, b = restA, restB
			continue
		}
		if a[0] != b[0] {
			return int(a[0]) - int(b[0])
		}
		a, b = a[1:], b[1:]
	}
	return len(a) - len(b)
}

func digit(c byte) bool { return c >= '0' && c <= '9' }

// number splits off the digits at the beginning, without zeros before them.
func number(text string) (digits, rest string) {
	end := 0
	for end < len(text) && digit(text[end]) {
		end++
	}
	return strings.TrimLeft(text[:end], "0"), text[end:]
}
