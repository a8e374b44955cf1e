package top

import (
	"slices"
)

// Text is what is shown instead of the table: a description, YAML, or logs.
type Text struct {
	Title string
	// Of logs: the pod, and which of its containers.
	Pod        *Row
	Query      Query
	Container  string
	Containers []string
	Previous   bool

	lines  []string // clean
	cut    int      // lines that were dropped at the beginning
	first  int      // the line at the top, among those that the filter has
	follow bool
	ended  string // why no more lines come
	filter filter
}

// Read shows a text.
func (m *Model) Read(t *Text) { m.text, m.help = t, false }

// Append adds clean lines at the end. Beyond a limit, the oldest are dropped.
func (t *Text) Append(more ...string) {
	t.lines = append(t.lines, more...)
	if over := len(t.lines) - maxLines; over > 0 {
		t.lines = slices.Delete(t.lines, 0, over)
		t.cut += over
	}
}

// End says why no more lines come.
func (t *Text) End(why string) { t.ended = clean(why, lineBytes) }

// visible returns the lines that the filter has.
func (t *Text) visible() []string {
	if t.filter.re == nil {
		return t.lines
	}
	var out []string
	for _, line := range t.lines {
		if t.filter.has(line) {
			out = append(out, line)
		}
	}
	return out
}

func (m *Model) textKey(key string) Action {
	t := m.text
	switch key {
	case "q", "esc":
		if key == "esc" && t.filter.text != "" {
			t.filter = filter{}
			return Action{}
		}
		m.text = nil
		return Action{Verb: Close}
	case "s", "f":
		if t.Pod != nil {
			t.follow = !t.follow
		}
		return Action{}
	case "p":
		if t.Pod != nil {
			return Action{Verb: Logs, Query: t.Query, Row: t.Pod, Container: t.Container, Previous: !t.Previous}
		}
	case "c":
		if len(t.Containers) > 1 {
			next := t.Containers[(slices.Index(t.Containers, t.Container)+1)%len(t.Containers)]
			return Action{Verb: Logs, Query: t.Query, Row: t.Pod, Container: next, Previous: t.Previous}
		}
	}
	length := len(t.visible())
	last := max(0, length-m.body())
	first := t.first
	if t.follow {
		first = last
	}
	if step := m.steps(key, length); step != 0 {
		t.first = max(0, min(first+step, last))
		t.follow = t.Pod != nil && t.first == last && step > 0
	}
	return Action{}
}
