package top

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Look is how a line is drawn.
type Look int

// The looks of lines.
const (
	Normal Look = iota
	Title
	Header
	Current // the selected row
	Bad     // an error, or an object in trouble
	Faint
)

// Line is a line of the screen, which may be longer than the screen is wide.
type Line struct {
	Text string
	Look Look
}

// View returns the lines of the screen, as many as it has.
func (m *Model) View() []Line {
	out := make([]Line, 0, m.height)
	out = append(out, m.title())
	switch {
	case m.help:
		out = append(out, m.helpView()...)
	case m.text != nil:
		out = append(out, m.textView()...)
	default:
		out = append(out, m.tableView()...)
	}
	for len(out) < m.height-1 {
		out = append(out, Line{})
	}
	out = out[:max(m.height-1, 0)]
	return append(out, m.bottom())
}

func (m *Model) title() Line {
	where := "all namespaces"
	if !m.query.Kind.Namespaced {
		where = "cluster"
	} else if m.query.Namespace != "" {
		where = m.query.Namespace
	}
	text := fmt.Sprintf(" %s  %s", m.query.Kind.Title(), where)
	if m.query.Of != "" {
		text += "  of " + m.query.Of
	}
	text += fmt.Sprintf("  %d", len(m.shown))
	if len(m.shown) != len(m.snapshot.Rows) {
		text += fmt.Sprintf("/%d", len(m.snapshot.Rows))
	}
	if m.snapshot.More {
		text += fmt.Sprintf(" (of more: only %d are kept)", maxRows)
	}
	if m.filter.text != "" {
		text += "  /" + m.filter.text
	}
	direction := "↑"
	if m.down {
		direction = "↓"
	}
	return Line{clean(text+"  "+m.sort+direction+"  "+m.Cluster, lineBytes), Title}
}

// bottom is the last line: what is typed, asked or wrong, or the keys.
func (m *Model) bottom() Line {
	switch {
	case m.confirm != nil:
		name := m.confirm.Row.Name
		if m.confirm.Row.Namespace != "" {
			name = m.confirm.Row.Namespace + "/" + name
		}
		return Line{clean(fmt.Sprintf("Delete %s %s? y: delete, any other key: keep", m.confirm.Query.Kind.Title(), name), lineBytes), Bad}
	case m.input != nil:
		return Line{string(m.input.prompt) + clean(m.input.value, lineBytes) + "█", Header}
	case m.status != "" && m.bad:
		return Line{m.status, Bad}
	case m.status != "":
		return Line{m.status, Normal}
	case m.snapshot.Err != "":
		return Line{m.snapshot.Err, Bad}
	case m.text != nil && m.text.Pod != nil:
		return Line{"esc back  / filter  s follow  p previous  c next container  g/G top/end  ? keys", Faint}
	case m.text != nil:
		return Line{"esc back  / filter  g/G top/end  ? keys", Faint}
	case m.snapshot.UsageErr != "":
		return Line{m.snapshot.UsageErr, Bad}
	}
	return Line{": kind  / filter  0 all namespaces  l logs  d describe  y yaml  s shell  ctrl-d delete  ? keys  q quit", Faint}
}

var helpText = []string{
	"",
	" :KIND [NAMESPACE]   show another kind: pods, nodes, deploy, any that is served; Tab completes; all: all namespaces",
	" /TEXT               filter by a regular expression; !TEXT: what does not match; esc removes it",
	" 0                   all namespaces",
	" enter               a namespace's, node's or workload's pods; a pod's logs; otherwise describe",
	" d  y                describe, YAML",
	" l  p                logs of a pod, or of all pods of a workload; of a pod's container before the last restart",
	"                     in logs: s follow, p previous, c next container",
	" s                   a shell in a pod",
	" ctrl-d              delete, after confirmation",
	" N A S R T C M P     sort by name, age, status, ready, restarts, CPU, memory, namespace; again: the other way round",
	" < >                 sort by the column to the left, to the right",
	" ctrl-w              wide columns",
	" j k g G pgup pgdn   move; also the arrows, home and end",
	" esc  q              back, quit",
}

func (m *Model) helpView() []Line {
	var out []Line
	for _, line := range helpText {
		out = append(out, Line{line, Normal})
	}
	return out
}

func (m *Model) textView() []Line {
	t := m.text
	title := t.Title
	if t.Container != "" {
		title += " " + t.Container
	}
	if t.Previous {
		title += " (previous)"
	}
	if t.follow {
		title += "  following"
	}
	if t.cut > 0 {
		title += fmt.Sprintf("  (%d lines before are dropped)", t.cut)
	}
	if t.filter.text != "" {
		title += "  /" + t.filter.text
	}
	if t.ended != "" {
		title += "  " + t.ended
	}
	out := []Line{{clean(title, lineBytes), Header}}
	all := t.visible()
	last := max(0, len(all)-m.body())
	t.first = min(t.first, last)
	if t.follow {
		t.first = last
	}
	for _, line := range all[t.first:min(len(all), t.first+m.body())] {
		out = append(out, Line{line, Normal})
	}
	return out
}

func (m *Model) tableView() []Line {
	m.move(0) // the size may have changed
	names := m.columns()
	visible := m.shown[m.first:min(len(m.shown), m.first+m.body())]
	table := make([][]string, 0, len(visible)+1)
	table = append(table, names)
	for _, r := range visible {
		table = append(table, m.cells(names, r))
	}
	widths := m.widths(table)
	out := []Line{{joined(names, widths), Header}}
	for i, r := range visible {
		look := Normal
		switch {
		case m.first+i == m.cursor:
			look = Current
		case m.trouble(r):
			look = Bad
		}
		out = append(out, Line{joined(table[i+1], widths), look})
	}
	if len(visible) == 0 {
		text := " loading"
		switch {
		case m.snapshot.Err != "":
			text = " " + m.snapshot.Err
		case m.snapshot.Listed && m.filter.text != "":
			text = " nothing matches the filter"
		case m.snapshot.Listed:
			text = " there are none"
		}
		out = append(out, Line{text, Faint})
	}
	return out
}

// cells are the texts of a row in the columns.
func (m *Model) cells(columns []string, r *Row) []string {
	usage, measured := m.snapshot.Usage[r.Namespace+"/"+r.Name]
	out := make([]string, 0, len(columns))
	for _, name := range columns {
		text := ""
		switch {
		case name == "NAMESPACE":
			text = clean(r.Namespace, cellBytes)
		case name == "AGE" && !r.Created.IsZero():
			text = age(r.Created, m.Now())
		case (name == "CPU" || name == "MEM") && m.snapshot.Usage != nil:
			switch {
			case !measured:
				text = "n/a"
			case name == "CPU":
				text = usage.cpu()
			default:
				text = usage.memory()
			}
		default:
			text = r.cell(slices.IndexFunc(m.snapshot.Columns, func(c Column) bool { return c.Name == name }))
		}
		out = append(out, text)
	}
	return out
}

// widths are those of the columns: as wide as the widest text, and if that is too much for the screen, the widest ones are narrowed.
func (m *Model) widths(table [][]string) []int {
	if len(table[0]) == 0 {
		return nil
	}
	widths := make([]int, len(table[0]))
	total := 0
	for i := range widths {
		for _, row := range table {
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i]))
		}
		total += widths[i] + 2
	}
	for total > m.width {
		widest := 0
		for i := range widths {
			if widths[i] > widths[widest] {
				widest = i
			}
		}
		if widths[widest] <= 10 {
			break
		}
		widths[widest]--
		total--
	}
	return widths
}

func joined(cells []string, widths []int) string {
	var out strings.Builder
	out.WriteByte(' ')
	for i, cell := range cells {
		n := utf8.RuneCountInString(cell)
		if n > widths[i] {
			cell = string([]rune(cell)[:max(widths[i]-1, 0)]) + "…"
			n = widths[i]
		}
		out.WriteString(cell)
		if i < len(cells)-1 {
			out.WriteString(strings.Repeat(" ", widths[i]-n+2))
		}
	}
	return out.String()
}

// fine are the states that are not shown as trouble, in a column STATUS.
var fine = []string{"Running", "Completed", "Succeeded", "Ready", "Active", "Bound", "Available", "Pending", "ContainerCreating", "Terminating", ""}

// trouble reports whether a row is of an object that needs a look.
func (m *Model) trouble(r *Row) bool {
	i := slices.IndexFunc(m.snapshot.Columns, func(c Column) bool { return c.Name == "STATUS" })
	return i >= 0 && !slices.Contains(fine, r.cell(i)) && !strings.HasPrefix(r.cell(i), "Init:")
}
