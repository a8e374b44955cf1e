package top

import (
	"regexp"
	"slices"
	"strings"
	"time"
)

// Verb is what a key asks the program to do beyond changing the screen.
type Verb int

// The verbs of an Action.
const (
	None     Verb = iota
	Quit          // end
	Open          // show another list: Query
	Command       // Text is a command: a kind and perhaps a namespace
	Enter         // show what belongs to the object, or describe it
	Logs          // of a pod: Container and Previous
	Describe      // the object
	YAML          // of the object
	Shell         // in a container of the pod
	Delete        // the object, as confirmed
	Close         // the text is no longer shown: end what fills it
)

// Action is what a key asks for.
type Action struct {
	Verb      Verb
	Query     Query // of Open; the kind is that of Row for verbs about an object
	Row       *Row
	Text      string
	Container string
	Previous  bool
}

// place is a list that Esc returns to.
type place struct {
	query    Query
	filter   filter
	sort     string
	down     bool
	selected string
}

// Model is what is on the screen. It is used by one goroutine.
type Model struct {
	Cluster string // its address, for the title
	Now     func() time.Time

	width, height int
	query         Query
	snapshot      Snapshot
	shown         []*Row
	cursor, first int    // in shown: the selected row, and the row at the top
	selected      string // the key of the selected row
	filter        filter
	sort          string // a column's name
	down          bool
	wide          bool
	back          []place

	text    *Text
	help    bool
	input   *input
	confirm *Action
	kinds   []Kind
	status  string
	bad     bool
}

// input is a line that is typed: a command after ':', a filter after '/'.
type input struct {
	prompt byte
	value  string
}

// filter chooses lines by a regular expression, or by its text if it is none; with ! before it, the others.
type filter struct {
	text string
	re   *regexp.Regexp
	not  bool
}

func newFilter(text string) filter {
	f := filter{text: text}
	text, f.not = strings.CutPrefix(text, "!")
	if text == "" {
		return f
	}
	re, err := regexp.Compile("(?i)" + text)
	if err != nil {
		re = regexp.MustCompile("(?i)" + regexp.QuoteMeta(text))
	}
	f.re = re
	return f
}

func (f filter) has(line string) bool { return f.re == nil || f.re.MatchString(line) != f.not }

// hasRow looks at each cell, so that ^ and $ are the ends of one.
func (f filter) hasRow(r *Row) bool {
	return f.re == nil || (f.re.MatchString(r.Namespace) || slices.ContainsFunc(r.Cells, f.re.MatchString)) != f.not
}

// NewModel returns a model of a list that has no rows yet.
func NewModel(query Query, now func() time.Time) *Model {
	return &Model{Now: now, width: 80, height: 24, query: query, sort: "NAME"}
}

// Resize sets the size of the screen in cells.
func (m *Model) Resize(width, height int) { m.width, m.height = max(width, 1), max(height, 1) }

// SetKinds sets what can be listed, which completes commands.
func (m *Model) SetKinds(all []Kind) { m.kinds = all }

// Say shows a message until the next key; bad ones are errors.
func (m *Model) Say(text string, bad bool) { m.status, m.bad = clean(text, lineBytes), bad }

// Show begins to show a list; the one before is what Esc returns to.
func (m *Model) Show(query Query) {
	if len(m.back) == 32 {
		m.back = m.back[1:]
	}
	m.back = append(m.back, place{m.query, m.filter, m.sort, m.down, m.selected})
	m.open(place{query: query, sort: "NAME"})
}

func (m *Model) open(p place) {
	m.query, m.filter, m.sort, m.down, m.selected = p.query, p.filter, p.sort, p.down, p.selected
	m.snapshot, m.shown, m.cursor, m.first, m.text, m.help = Snapshot{}, nil, 0, 0, nil, false
}

// Update shows the rows of a snapshot. The selected object stays selected while it exists.
func (m *Model) Update(s Snapshot) {
	m.snapshot = s
	m.arrange()
}

// arrange filters and sorts.
func (m *Model) arrange() {
	m.shown = m.shown[:0]
	for _, r := range m.snapshot.Rows {
		if m.filter.hasRow(r) {
			m.shown = append(m.shown, r)
		}
	}
	slices.SortFunc(m.shown, m.order())
	if i := slices.IndexFunc(m.shown, func(r *Row) bool { return r.key() == m.selected }); i >= 0 {
		m.cursor = i
	}
	m.move(0)
}

// order compares rows by the column that is sorted by, and then by name.
func (m *Model) order() func(a, b *Row) int {
	index := slices.IndexFunc(m.snapshot.Columns, func(c Column) bool { return c.Name == m.sort })
	usage := func(r *Row) Usage { return m.snapshot.Usage[r.Namespace+"/"+r.Name] }
	by := func(a, b *Row) int { return 0 }
	switch {
	case m.sort == "AGE":
		by = func(a, b *Row) int { return b.Created.Compare(a.Created) }
	case m.sort == "CPU":
		by = func(a, b *Row) int { return compare(usage(a).Milli, usage(b).Milli) }
	case m.sort == "MEM":
		by = func(a, b *Row) int { return compare(usage(a).Bytes, usage(b).Bytes) }
	case m.sort == "NAMESPACE":
		by = func(a, b *Row) int { return natural(a.Namespace, b.Namespace) }
	case index >= 0:
		by = func(a, b *Row) int { return natural(a.cell(index), b.cell(index)) }
	}
	return func(a, b *Row) int {
		n := by(a, b)
		if m.down {
			n = -n
		}
		if n == 0 {
			n = natural(a.Namespace, b.Namespace)
		}
		if n == 0 {
			n = natural(a.Name, b.Name)
		}
		return n
	}
}

func compare(a, b int64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func (r *Row) cell(i int) string {
	if i >= 0 && i < len(r.Cells) {
		return r.Cells[i]
	}
	return ""
}

// Selected returns the selected row, or nil.
func (m *Model) Selected() *Row {
	if m.cursor < len(m.shown) {
		return m.shown[m.cursor]
	}
	return nil
}

// move moves the selection by a number of rows, and scrolls to it.
func (m *Model) move(by int) {
	m.cursor = max(0, min(m.cursor+by, len(m.shown)-1))
	m.first = max(0, min(m.first, m.cursor, len(m.shown)-m.body()))
	m.first = max(m.first, m.cursor-m.body()+1)
	if r := m.Selected(); r != nil {
		m.selected = r.key()
	}
}

// body is the number of lines for rows or text.
func (m *Model) body() int { return max(m.height-3, 1) }

// columns are the names of the columns that are shown.
func (m *Model) columns() []string {
	var out []string
	if m.query.Kind.Namespaced && m.query.Namespace == "" {
		out = append(out, "NAMESPACE")
	}
	for _, c := range m.snapshot.Columns {
		if !c.Wide || m.wide {
			out = append(out, c.Name)
		}
	}
	if m.snapshot.Usage != nil {
		out = append(out, "CPU", "MEM")
	}
	return out
}
