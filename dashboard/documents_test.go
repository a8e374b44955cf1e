package dashboard

import (
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"
)

// TestDocumentsArePages: every document of the repository is a page without script, whose links lead to pages and headings that are there.
func TestDocumentsArePages(t *testing.T) {
	d, err := newDocuments(os.DirFS("../docs"))
	if err != nil {
		t.Fatal(err)
	}
	p := newPage(t)
	p.d.mux = http.NewServeMux()
	p.d.mux.HandleFunc("GET "+documentsPath, d.serve)
	read := func(at string) (int, string, http.Header) {
		r := p.do(request("GET", at, "", secretHeader, ""))
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		return r.StatusCode, string(body), r.Header
	}
	link := regexp.MustCompile(`(?:href|src)="([^"]*)"`)
	pages, links := 0, 0
	bodies := map[string]string{}
	for name := range d.files {
		if strings.Contains(name, ".") {
			continue
		}
		pages++
		code, body, h := read(documentsPath + name)
		if code != http.StatusOK || h.Get("Content-Type") != "text/html; charset=utf-8" || h.Get("Content-Security-Policy") != documentPolicy {
			t.Errorf("%s: %d %v", name, code, h)
		}
		if strings.Contains(body, "<script") || strings.Contains(body, "style=\"") && strings.Contains(documentPolicy, "'unsafe-inline'") || !strings.Contains(body, "<h1 id=") || strings.Contains(body, "raw HTML omitted") {
			t.Errorf("%s: it has a script, no heading, or HTML that is left out", name)
		}
		bodies[documentsPath+name] = body
	}
	for from, body := range bodies {
		for _, m := range link.FindAllStringSubmatch(body, -1) {
			to, fragment, _ := strings.Cut(m[1], "#")
			switch {
			case strings.HasPrefix(to, "https://"), strings.HasPrefix(to, "http://"), to == "/ui/", to == "/ui/icon.svg":
				continue
			case to == "":
				to = from
			}
			links++
			there, known := bodies[to]
			if !known {
				if code, _, _ := read(to); code != http.StatusOK {
					t.Errorf("%s: %s is not served: %d", from, m[1], code)
				}
			}
			if fragment != "" && !strings.Contains(there, ` id="`+fragment+`"`) {
				t.Errorf("%s: %s: there is no such heading", from, m[1])
			}
		}
	}
	if pages < 30 || links < 1000 {
		t.Errorf("%d pages, %d links", pages, links)
	}
	if code, _, h := read(documentsPath); code != http.StatusFound || h.Get("Location") != documentsPath+firstDocument {
		t.Errorf("the first page: %d %v", code, h)
	}
	for _, c := range chapters {
		for _, name := range c.names {
			if d.files[name] == nil {
				t.Errorf("the list names %s, which there is not", name)
			}
		}
	}
	if code, _, _ := read(documentsPath + "../../etc/passwd"); code == http.StatusOK {
		t.Error("a path that leads out of the documents was served")
	}
	if code, _, _ := read(documentsPath + "none"); code != http.StatusNotFound {
		t.Errorf("a document that there is not: %d", code)
	}
}

// Hostile Markdown is text: documents are our own, but the pages are of the dashboard's origin.
func TestMarkdownHasNoRawHTML(t *testing.T) {
	d, err := newDocuments(fstest.MapFS{"a.md": {Data: []byte("# T\n\n<script>alert(1)</script>\n\nb <img src=x onerror=alert(1)> [x](javascript:alert(1)) [y](../a.txt) [z](b.md#h-i)\n\n## H & `I`?\n")}, "b.md": {Data: []byte("# B\n\n## H, I\n\n## H, I\n")}})
	if err != nil {
		t.Fatal(err)
	}
	body := string(d.files["a"].plain)
	for _, bad := range []string{"<script>", "onerror", "javascript:", "a.txt"} {
		if strings.Contains(body, bad) {
			t.Errorf("it has %s: %s", bad, body)
		}
	}
	for _, want := range []string{`href="/ui/docs/b#h-i"`, `id="h--i"`, "x", "y"} {
		if !strings.Contains(body, want) {
			t.Errorf("it lacks %s: %s", want, body)
		}
	}
	if b := string(d.files["b"].plain); !strings.Contains(b, `id="h-i"`) || !strings.Contains(b, `id="h-i-1"`) {
		t.Errorf("the headings are %s", b)
	}
}
