package dashboard

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"path"
	"slices"
	"strings"
	"unicode"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	"github.com/yuin/goldmark/parser"
	"github.com/yuin/goldmark/text"
	"github.com/yuin/goldmark/util"
)

const (
	documentsPath = Root + "/docs/"
	// documentPolicy lets a document have its style and pictures, and nothing else: it has no script.
	documentPolicy = "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
	firstDocument  = "getting-started"
	documentStyle  = "style.css"
)

// chapters are the documents in the order of the list beside them. Those that are not named here come last, in the order of their names.
var chapters = []struct {
	title string
	names []string
}{
	{"Begin", []string{"getting-started", "concepts", "tutorials/three-machines", "tutorials/storage", "tutorials/autoscaling", "tutorials/upgrade", "tutorials/backup-and-restore"}},
	{"Use", []string{"dashboard", "workloads", "scheduling", "storage", "devices", "autoscaling", "transactions", "custom-resources", "admission", "aggregation", "client", "grpc"}},
	{"Operate", []string{"operations", "troubleshooting", "metrics", "tracing", "audit", "fairness", "scale"}},
	{"Protect", []string{"security", "authentication", "authorization", "guarantees", "storage-fencing", "cis"}},
	{"Reference", []string{"commands", "reference-metrics", "reference-grpc", "reference-roles"}},
	{"Know more", []string{"status", "architecture", "conformance", "dependencies"}},
}

//go:embed documents.css
var documentsCSS []byte

//go:embed documents.html
var documentsHTML string

// documents are the pages at /ui/docs/, made once from the documents' Markdown.
type documents struct {
	files map[string]*file // by path below /ui/docs/
}

type chapter struct {
	Title   string
	Entries []entry
}

type entry struct {
	Href, Title string
	Current     bool
}

// newDocuments makes the pages of Markdown files: "a.md" becomes the page "a".
func newDocuments(in fs.FS) (*documents, error) {
	d := &documents{files: map[string]*file{}}
	page, err := template.New("page").Parse(documentsHTML)
	if err != nil {
		return nil, err
	}
	sources, titles := map[string][]byte{}, map[string]string{}
	err = fs.WalkDir(in, ".", func(at string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := fs.ReadFile(in, at)
		if err != nil {
			return err
		}
		if name, ok := strings.CutSuffix(at, ".md"); ok {
			sources[name], titles[name] = data, titleOf(data)
			return nil
		}
		d.files[at], err = newFile(at, data)
		return err
	})
	if err != nil {
		return nil, err
	}
	if d.files[documentStyle], err = newFile(documentStyle, documentsCSS); err != nil {
		return nil, err
	}
	for name, source := range sources {
		body, err := rendered(name, source, sources)
		if err != nil {
			return nil, fmt.Errorf("%s.md: %w", name, err)
		}
		var out bytes.Buffer
		if err := page.Execute(&out, map[string]any{"Title": titles[name], "Chapters": contents(name, titles), "Body": template.HTML(body)}); err != nil {
			return nil, err
		}
		if d.files[name], err = newFile(name+".html", out.Bytes()); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// titleOf returns the first heading of a document.
func titleOf(source []byte) string {
	for line := range bytes.Lines(source) {
		if title, ok := bytes.CutPrefix(line, []byte("# ")); ok {
			return string(bytes.TrimSpace(title))
		}
	}
	return ""
}

// contents returns the list of all documents, as beside one.
func contents(current string, titles map[string]string) (list []chapter) {
	left := map[string]bool{}
	for name := range titles {
		left[name] = true
	}
	add := func(title string, names []string) {
		c := chapter{Title: title}
		for _, name := range names {
			if left[name] {
				delete(left, name)
				c.Entries = append(c.Entries, entry{documentsPath + name, strings.TrimPrefix(titles[name], "Tutorial: "), name == current})
			}
		}
		if len(c.Entries) > 0 {
			list = append(list, c)
		}
	}
	for _, c := range chapters {
		add(c.title, c.names)
	}
	var others []string
	for name := range left {
		others = append(others, name)
	}
	slices.Sort(others)
	add("Others", others)
	return list
}

// rendered returns the HTML of a document. Raw HTML in it is left out. Links to other documents lead to their pages; those to other files of
// the repository, which are not here, become text.
func rendered(name string, source []byte, all map[string][]byte) ([]byte, error) {
	markdown := goldmark.New(goldmark.WithExtensions(extension.Table), goldmark.WithParserOptions(parser.WithAutoHeadingID()))
	tree := markdown.Parser().Parse(text.NewReader(source), parser.WithContext(parser.NewContext(parser.WithIDs(&headingIDs{used: map[string]int{}}))))
	var away []*ast.Link
	err := ast.Walk(tree, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if !entering {
			return ast.WalkContinue, nil
		}
		switch n := n.(type) {
		case *ast.Link:
			to, ok := linked(name, string(n.Destination), all)
			if !ok {
				away = append(away, n)
			}
			n.Destination = []byte(to)
		case *ast.Image:
			n.Destination = []byte(documentsPath + path.Join(path.Dir(name), string(n.Destination)))
		}
		return ast.WalkContinue, nil
	})
	if err != nil {
		return nil, err
	}
	for _, link := range away {
		parent := link.Parent()
		for child := link.FirstChild(); child != nil; child = link.FirstChild() {
			link.RemoveChild(link, child)
			parent.InsertBefore(parent, link, child)
		}
		parent.RemoveChild(parent, link)
	}
	var out bytes.Buffer
	if err := markdown.Renderer().Render(&out, source, tree); err != nil {
		return nil, err
	}
	page := bytes.ReplaceAll(out.Bytes(), []byte("<!-- raw HTML omitted -->\n"), nil)
	return bytes.ReplaceAll(page, []byte("<pre>"), []byte(`<pre tabindex="0">`)), nil // so that the keyboard scrolls it
}

// linked returns where a link of a document leads, and whether that is served here or by another site.
func linked(from, to string, all map[string][]byte) (string, bool) {
	if strings.Contains(to, "://") || strings.HasPrefix(to, "#") {
		return to, true
	}
	file, fragment, _ := strings.Cut(to, "#")
	name, ok := strings.CutSuffix(path.Join(path.Dir(from), file), ".md")
	if _, there := all[name]; !ok || !there {
		return to, false
	}
	if fragment != "" {
		fragment = "#" + fragment
	}
	return documentsPath + name + fragment, true
}

// headingIDs makes the ids of headings as GitHub does, so that links lead to them there and here.
type headingIDs struct{ used map[string]int }

// Generate implements parser.IDs.
func (h *headingIDs) Generate(value []byte, _ ast.NodeKind) []byte {
	id := strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
			return unicode.ToLower(r)
		}
		return -1
	}, strings.TrimSpace(string(util.UnescapePunctuations(value))))
	n := h.used[id]
	h.used[id]++
	if n > 0 {
		id = fmt.Sprintf("%s-%d", id, n)
	}
	return []byte(id)
}

// Put implements parser.IDs.
func (h *headingIDs) Put(value []byte) { h.used[string(value)]++ }

// serve serves a document, a picture or the style.
func (d *documents) serve(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, documentsPath), "/")
	if name == "" {
		http.Redirect(w, r, documentsPath+firstDocument, http.StatusFound)
		return
	}
	if plain, ok := strings.CutSuffix(name, ".md"); ok {
		http.Redirect(w, r, documentsPath+plain, http.StatusMovedPermanently)
		return
	}
	found := d.files[name]
	if found == nil {
		problem(w, http.StatusNotFound, "NotFound", "there is no such document; "+documentsPath+" has all")
		return
	}
	w.Header().Set("Cache-Control", "no-cache")
	w.Header().Set("ETag", found.etag)
	if r.Header.Get("If-None-Match") == found.etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	found.write(w, r, documentPolicy)
}
