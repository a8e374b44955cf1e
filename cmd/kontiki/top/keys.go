package top

import (
	"slices"
	"strings"
	"unicode/utf8"
)

// inputRunes is the length of what may be typed.
const inputRunes = 256

// sorts are the keys that sort by a column, which k9s has too.
var sorts = map[string]string{"N": "NAME", "A": "AGE", "S": "STATUS", "R": "READY", "T": "RESTARTS", "C": "CPU", "M": "MEM", "P": "NAMESPACE"}

// Key applies a key: a character, or one of up, down, pgup, pgdn, home, end, enter, esc, tab, backspace, ctrl-d, ctrl-w, ctrl-u, ctrl-c.
func (m *Model) Key(key string) Action {
	m.status, m.bad = "", false
	switch {
	case key == "ctrl-c":
		return Action{Verb: Quit}
	case m.confirm != nil:
		return m.confirmKey(key)
	case m.input != nil:
		return m.inputKey(key)
	case key == ":" || key == "/":
		m.help = false
		m.input = &input{prompt: key[0]}
		return Action{}
	case m.help:
		m.help = key != "esc" && key != "q" && key != "?" && key != "enter"
		return Action{}
	case key == "?":
		m.help = true
		return Action{}
	case m.text != nil:
		return m.textKey(key)
	}
	return m.tableKey(key)
}

func (m *Model) tableKey(key string) Action {
	switch key {
	case "q":
		return Action{Verb: Quit}
	case "esc":
		return m.goBack()
	case "0":
		if !m.query.Kind.Namespaced || m.query.Namespace == "" {
			return Action{}
		}
		q := m.query
		q.Namespace = ""
		return Action{Verb: Open, Query: q}
	case "ctrl-w":
		m.wide = !m.wide
		return Action{}
	case "<", ">":
		m.nextSort(key == ">")
		return Action{}
	case "enter":
		return m.about(Enter)
	case "d":
		return m.about(Describe)
	case "y":
		return m.about(YAML)
	case "l", "p":
		if key == "l" && m.query.Kind.selectsPods() {
			return m.about(Logs)
		}
		a := m.aboutPod(Logs)
		a.Previous = key == "p"
		return a
	case "s":
		return m.aboutPod(Shell)
	case "ctrl-d":
		if a := m.about(Delete); a.Verb != None {
			m.confirm = &a
		}
		return Action{}
	}
	if column, ok := sorts[key]; ok {
		m.sortBy(column)
		return Action{}
	}
	m.move(m.steps(key, len(m.shown)))
	return Action{}
}

// steps is how far a key moves in a list of the given length.
func (m *Model) steps(key string, length int) int {
	switch key {
	case "j", "down":
		return 1
	case "k", "up":
		return -1
	case "pgdn", " ":
		return m.body()
	case "pgup":
		return -m.body()
	case "g", "home":
		return -length
	case "G", "end":
		return length
	}
	return 0
}

// about is an action about the selected object.
func (m *Model) about(verb Verb) Action {
	r := m.Selected()
	if r == nil {
		m.Say("nothing is selected", true)
		return Action{}
	}
	return Action{Verb: verb, Query: m.query, Row: r}
}

func (m *Model) aboutPod(verb Verb) Action {
	if !m.query.Kind.is("", "pods") {
		m.Say("this is of pods; Enter shows the pods of a workload or node", true)
		return Action{}
	}
	return m.about(verb)
}

// goBack removes the filter, or returns to the list before.
func (m *Model) goBack() Action {
	if m.filter.text != "" {
		m.filter = filter{}
		m.arrange()
		return Action{}
	}
	if len(m.back) == 0 {
		return Action{}
	}
	p := m.back[len(m.back)-1]
	m.back = m.back[:len(m.back)-1]
	m.open(p)
	return Action{Verb: Open, Query: p.query, Text: "back"}
}

// sortBy sorts by a column; if it is sorted by it already, the other way round.
func (m *Model) sortBy(column string) {
	if !slices.Contains(m.columns(), column) {
		m.Say("there is no column "+column, true)
		return
	}
	m.down = column == m.sort && !m.down
	if column != m.sort {
		m.down = column == "CPU" || column == "MEM" || column == "RESTARTS" // what is most first
	}
	m.sort = column
	m.arrange()
}

// nextSort sorts by the column beside the one that is sorted by.
func (m *Model) nextSort(right bool) {
	all := m.columns()
	if len(all) == 0 {
		return
	}
	step := 1
	if !right {
		step = len(all) - 1
	}
	m.sort, m.down = all[(max(slices.Index(all, m.sort), 0)+step)%len(all)], false
	m.arrange()
}

func (m *Model) confirmKey(key string) Action {
	a := *m.confirm
	m.confirm = nil
	if key == "y" || key == "Y" {
		return a
	}
	m.Say("not deleted", false)
	return Action{}
}

func (m *Model) inputKey(key string) Action {
	in := m.input
	switch {
	case key == "esc":
		m.input = nil
		if in.prompt == '/' {
			m.setFilter("")
		}
		return Action{}
	case key == "enter":
		m.input = nil
		return m.entered(in)
	case key == "backspace":
		_, size := utf8.DecodeLastRuneInString(in.value)
		in.value = in.value[:len(in.value)-size]
	case key == "ctrl-u":
		in.value = ""
	case key == "tab":
		if in.prompt == ':' {
			in.value = m.complete(in.value)
		}
	case utf8.RuneCountInString(key) == 1 && utf8.RuneCountInString(in.value) < inputRunes:
		in.value += clean(key, 8)
	}
	if in.prompt == '/' {
		m.setFilter(in.value)
	}
	return Action{}
}

func (m *Model) setFilter(text string) {
	if m.text != nil {
		m.text.filter = newFilter(text)
		return
	}
	m.filter = newFilter(text)
	m.arrange()
}

func (m *Model) entered(in *input) Action {
	command := strings.TrimSpace(in.value)
	if in.prompt == '/' || command == "" {
		return Action{}
	}
	switch command {
	case "q", "q!", "quit", "exit":
		return Action{Verb: Quit}
	case "?", "h", "help":
		m.help = true
		return Action{}
	}
	return Action{Verb: Command, Text: command}
}

// complete completes the kind that is typed as far as there is only one way.
func (m *Model) complete(begun string) string {
	var names []string
	for _, k := range m.kinds {
		if name := k.Title(); strings.HasPrefix(name, begun) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return begun
	}
	common := names[0]
	for _, name := range names[1:] {
		for !strings.HasPrefix(name, common) {
			common = common[:len(common)-1]
		}
	}
	return common
}
