package server

import (
	"fmt"
	"html"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// hostLogs is the directory that /logs/ shows.
	hostLogs = "/var/log"
	// maxLogEntries limits how many entries of a directory are listed.
	maxLogEntries = 10_000
)

// hostLog answers /logs/PATH as a kubelet does: with the file, or a list of the directory. Links that lead out of the directory are not
// followed, as pods may write to it, and nothing but regular files is read.
func (s *Server) hostLog(w http.ResponseWriter, r *http.Request) {
	root, err := os.OpenRoot(s.hostLogs)
	if err != nil {
		http.Error(w, "the node's logs cannot be read: "+err.Error(), http.StatusInternalServerError)
		return
	}
	defer root.Close()
	name := path.Clean(strings.TrimPrefix(r.URL.Path, "/logs/"))
	// Without O_NONBLOCK, opening a FIFO would wait for a writer.
	f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		http.Error(w, "404 page not found", http.StatusNotFound)
		return
	}
	defer f.Close()
	switch info, err := f.Stat(); {
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	case info.IsDir():
		listLogs(w, f)
	case info.Mode().IsRegular():
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		// A file that is written to has no end that could be told before, and the time would let a client be told that nothing changed.
		http.ServeContent(w, r, "", time.Time{}, io.NewSectionReader(f, 0, info.Size()))
	default:
		http.Error(w, "it is no regular file", http.StatusForbidden)
	}
}

// listLogs writes the entries of a directory as links, as Go's file server does.
func listLogs(w http.ResponseWriter, dir *os.File) {
	entries, err := dir.ReadDir(maxLogEntries)
	if err != nil && err != io.EOF {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	fmt.Fprintln(w, "<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>")
	for _, e := range entries {
		name := e.Name()
		if e.IsDir() {
			name += "/"
		}
		link := url.URL{Path: name}
		fmt.Fprintf(w, "<a href=\"%s\">%s</a>\n", html.EscapeString(link.String()), html.EscapeString(name))
	}
	fmt.Fprintln(w, "</pre>")
}
