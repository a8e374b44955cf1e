package top

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

var (
	podKind        = Kind{GroupVersionResource: schema.GroupVersionResource{Version: "v1", Resource: "pods"}, Kind: "Pod", Namespaced: true, Watched: true, names: []string{"pods", "pod", "po"}}
	nodeKind       = Kind{GroupVersionResource: schema.GroupVersionResource{Version: "v1", Resource: "nodes"}, Kind: "Node", Watched: true, names: []string{"nodes", "node", "no"}}
	deploymentKind = Kind{GroupVersionResource: schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}, Kind: "Deployment", Namespaced: true, Watched: true, names: []string{"deployments", "deployment", "deploy"}}
	noon           = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
)

// pods returns a model of pods, each with as many restarts as its number.
func pods(names ...string) (*Model, Snapshot) {
	m := NewModel(Query{Kind: podKind}, func() time.Time { return noon })
	m.Resize(120, 10)
	s := Snapshot{Columns: []Column{{Name: "NAME"}, {Name: "STATUS"}, {Name: "RESTARTS"}, {Name: "AGE"}, {Name: "NODE", Wide: true}}, Listed: true, Usage: map[string]Usage{}}
	for i, name := range names {
		s.Rows = append(s.Rows, &Row{Namespace: "shop", Name: name, UID: name, Created: noon.Add(-time.Duration(i+1) * time.Hour), Cells: []string{name, "Running", fmt.Sprint(i), "old", "worker-1"}})
		s.Usage["shop/"+name] = Usage{Milli: int64(10 * (i + 1)), Bytes: int64(len(names)-i) << 20}
	}
	m.Update(s)
	return m, s
}

func screenText(m *Model) string {
	var out strings.Builder
	for _, line := range m.View() {
		out.WriteString(line.Text + "\n")
	}
	return out.String()
}

func press(m *Model, keys ...string) (last Action) {
	for _, k := range keys {
		last = m.Key(k)
	}
	return last
}

func typed(m *Model, text string) {
	for _, r := range text {
		m.Key(string(r))
	}
}

func order(m *Model) string {
	var names []string
	for _, r := range m.shown {
		names = append(names, r.Name)
	}
	return strings.Join(names, " ")
}

func TestTableIsSortedAndFiltered(t *testing.T) {
	m, _ := pods("web-10", "web-9", "db-1")
	if got := order(m); got != "db-1 web-9 web-10" {
		t.Error(got)
	}
	for _, c := range []struct{ key, want string }{
		{"N", "web-10 web-9 db-1"}, {"A", "web-10 web-9 db-1"}, {"A", "db-1 web-9 web-10"}, {"C", "db-1 web-9 web-10"}, {"M", "web-10 web-9 db-1"},
		{"T", "db-1 web-9 web-10"}, {"T", "web-10 web-9 db-1"},
	} {
		press(m, c.key)
		if got := order(m); got != c.want {
			t.Errorf("%s: %s, want %s", c.key, got, c.want)
		}
	}
	press(m, "/")
	typed(m, "WEB-\\d$")
	press(m, "enter")
	if got := order(m); got != "web-9" {
		t.Errorf("filtered: %s", got)
	}
	if text := screenText(m); !strings.Contains(text, "1/3") || strings.Contains(text, "db-1") || !strings.Contains(text, "20m") || !strings.Contains(text, "120m") {
		t.Errorf("the screen:\n%s", text)
	}
	press(m, "esc")
	press(m, "/")
	typed(m, "!web")
	press(m, "enter")
	if got := order(m); got != "db-1" {
		t.Errorf("inverted: %s", got)
	}
	press(m, "/", "ctrl-u")
	typed(m, "[")
	if got := order(m); got != "db-1" && got != "" {
		t.Errorf("no regular expression: %s", got)
	}
	if a := press(m, "esc", "q"); a.Verb != Quit {
		t.Errorf("q: %+v", a)
	}
}

func TestSelectionFollowsTheObject(t *testing.T) {
	m, s := pods("a", "b", "c")
	press(m, "j")
	if m.Selected().Name != "b" {
		t.Fatal(m.Selected().Name)
	}
	s.Rows = append([]*Row{{Namespace: "shop", Name: "aa", UID: "aa", Cells: []string{"aa"}}}, s.Rows...)
	m.Update(s)
	if m.Selected().Name != "b" {
		t.Errorf("after another came before it: %s", m.Selected().Name)
	}
	s.Rows = nil
	m.Update(s)
	if a := press(m, "d"); a.Verb != None || !strings.Contains(screenText(m), "nothing is selected") {
		t.Errorf("without rows: %+v", a)
	}
}

func TestLongListsScroll(t *testing.T) {
	var names []string
	for i := range 100 {
		names = append(names, fmt.Sprint("pod-", i))
	}
	m, _ := pods(names...)
	press(m, "G")
	text := screenText(m)
	if m.Selected().Name != "pod-99" || !strings.Contains(text, "pod-99") || strings.Contains(text, "pod-1 ") || strings.Count(text, "\n") != 10 {
		t.Errorf("at the end:\n%s", text)
	}
	m.Resize(40, 5)
	if text = screenText(m); !strings.Contains(text, "pod-99") || strings.Count(text, "\n") != 5 {
		t.Errorf("smaller:\n%s", text)
	}
	m.Resize(1, 1)
	if len(m.View()) != 1 {
		t.Errorf("%d lines of one", len(m.View()))
	}
	press(m, "g")
	if m.Selected().Name != "pod-0" {
		t.Error(m.Selected().Name)
	}
}

func TestDeletionIsConfirmed(t *testing.T) {
	m, _ := pods("a", "b")
	if a := press(m, "ctrl-d"); a.Verb != None || !strings.Contains(screenText(m), "Delete pods shop/a?") {
		t.Errorf("asked: %+v\n%s", a, screenText(m))
	}
	if a := press(m, "n"); a.Verb != None {
		t.Errorf("refused: %+v", a)
	}
	press(m, "ctrl-d")
	m.Update(Snapshot{Listed: true}) // the object goes, and comes back under another UID
	if a := press(m, "y"); a.Verb != Delete || a.Row.UID != "a" {
		t.Errorf("confirmed: %+v", a)
	}
	if a := press(m, "y"); a.Verb == Delete {
		t.Error("deleted twice")
	}
}

func TestKeysAskForActions(t *testing.T) {
	m, _ := pods("a")
	for key, verb := range map[string]Verb{"l": Logs, "p": Logs, "d": Describe, "y": YAML, "s": Shell, "enter": Enter, "ctrl-c": Quit} {
		if a := press(m, key); a.Verb != verb || a.Previous != (key == "p") {
			t.Errorf("%s: %+v", key, a)
		}
	}
	press(m, ":")
	typed(m, "deploy kube-system")
	if a := press(m, "enter"); a.Verb != Command || a.Text != "deploy kube-system" {
		t.Errorf("command: %+v", a)
	}
	m.SetKinds([]Kind{podKind, nodeKind})
	press(m, ":", "n", "tab")
	if m.input.value != "nodes" {
		t.Errorf("completed: %q", m.input.value)
	}
	press(m, "esc")
	m.Show(Query{Kind: nodeKind})
	m.Update(Snapshot{Columns: []Column{{Name: "NAME"}}, Listed: true, Rows: []*Row{{Name: "worker-1", Cells: []string{"worker-1"}}}})
	if a := press(m, "l"); a.Verb != None || !strings.Contains(screenText(m), "this is of pods") {
		t.Errorf("logs of a node: %+v", a)
	}
	if a := press(m, "esc"); a.Verb != Open || !a.Query.Kind.is("", "pods") {
		t.Errorf("back: %+v", a)
	}
	m.Show(Query{Kind: deploymentKind})
	m.Update(Snapshot{Columns: []Column{{Name: "NAME"}}, Listed: true, Rows: []*Row{{Name: "web", Namespace: "default", Cells: []string{"web"}}}})
	if a := press(m, "l"); a.Verb != Logs || a.Row.Name != "web" {
		t.Errorf("logs of a workload: %+v", a)
	}
	if a := press(m, "p"); a.Verb != None {
		t.Errorf("previous logs of a workload: %+v", a)
	}
	press(m, "esc")
	m.Resize(120, 24)
	press(m, "?")
	if !strings.Contains(screenText(m), "ctrl-w") {
		t.Error("no help")
	}
	press(m, "esc")
	if q := m.query; q.Namespace != "" {
		t.Fatal(q)
	}
	m.Show(Query{Kind: podKind, Namespace: "shop"})
	if a := press(m, "0"); a.Verb != Open || a.Query.Namespace != "" {
		t.Errorf("all namespaces: %+v", a)
	}
}

func TestLogsAreFollowedAndBounded(t *testing.T) {
	m, s := pods("a")
	m.Read(&Text{Title: "logs", Pod: s.Rows[0], Query: m.query, Container: "one", Containers: []string{"one", "two"}, follow: true})
	for i := range maxLines + 50 {
		m.text.Append(fmt.Sprint("line ", i))
	}
	text := screenText(m)
	if len(m.text.lines) != maxLines || !strings.Contains(text, fmt.Sprint("line ", maxLines+49)) || !strings.Contains(text, "50 lines before are dropped") {
		t.Errorf("%d lines:\n%s", len(m.text.lines), text)
	}
	press(m, "pgup")
	m.text.Append("the newest")
	if strings.Contains(screenText(m), "the newest") {
		t.Error("it follows although the user looks at what was before")
	}
	press(m, "s")
	if !strings.Contains(screenText(m), "the newest") {
		t.Error("it does not follow")
	}
	press(m, "/")
	typed(m, "newest")
	press(m, "enter")
	if text := screenText(m); strings.Contains(text, "line 10049") || !strings.Contains(text, "the newest") {
		t.Errorf("filtered:\n%s", text)
	}
	if a := press(m, "c"); a.Verb != Logs || a.Container != "two" {
		t.Errorf("next container: %+v", a)
	}
	if a := press(m, "p"); a.Verb != Logs || !a.Previous || a.Container != "one" {
		t.Errorf("previous: %+v", a)
	}
	if a := press(m, "esc", "esc"); a.Verb != Close || m.text != nil {
		t.Errorf("back: %+v", a)
	}
}
