package statemetrics

import (
	"bufio"
	"compress/gzip"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"

	"github.com/kontiki/kontiki/api/client"
)

// Handler returns the handler of the metrics. view returns the present state.
func Handler(view func() client.View) http.Handler {
	turn := make(chan struct{}, 1)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case turn <- struct{}{}:
			defer func() { <-turn }()
		case <-r.Context().Done():
			return
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		var body io.Writer = w
		if acceptsGzip(r) {
			w.Header().Set("Content-Encoding", "gzip")
			zip, _ := gzip.NewWriterLevel(w, gzip.BestSpeed) // the level is valid
			defer zip.Close()
			body = zip
		}
		buffered := bufio.NewWriterSize(body, 64<<10)
		defer buffered.Flush()
		out := &writer{to: buffered}
		v := view()
		for _, write := range kinds {
			if write(v, out); out.err != nil || r.Context().Err() != nil {
				return // nobody reads it any more
			}
		}
	})
}

func acceptsGzip(r *http.Request) bool {
	for _, part := range strings.Split(r.Header.Get("Accept-Encoding"), ",") {
		if name, parameters, _ := strings.Cut(strings.TrimSpace(part), ";"); name == "gzip" && !strings.Contains(parameters, "q=0,") && strings.TrimSpace(parameters) != "q=0" {
			return true
		}
	}
	return false
}

// writer writes metrics in Prometheus' text format.
type writer struct {
	to   *bufio.Writer
	name string
	// common are the first labels of every metric of the present object: names and values in turn.
	common []string
	line   []byte
	err    error
}

// begin begins a family.
func (w *writer) begin(name, kind, help string) {
	w.name = name
	w.write("# HELP " + name + " " + help + "\n# TYPE " + name + " " + kind + "\n")
}

func (w *writer) write(text string) {
	if w.err == nil {
		_, w.err = w.to.WriteString(text)
	}
}

// metric writes a metric of the present family and object, with further labels, names and values in turn.
func (w *writer) metric(value float64, labels ...string) {
	line := append(append(w.line[:0], w.name...), '{')
	for _, set := range [2][]string{w.common, labels} {
		for i := 0; i+1 < len(set); i += 2 {
			if line[len(line)-1] != '{' {
				line = append(line, ',')
			}
			line = append(append(line, set[i]...), '=', '"')
			line = append(appendEscaped(line, set[i+1]), '"')
		}
	}
	line = append(line, '}', ' ')
	switch {
	case value == math.Trunc(value) && math.Abs(value) < 1e15:
		line = strconv.AppendInt(line, int64(value), 10)
	default:
		line = strconv.AppendFloat(line, value, 'g', -1, 64)
	}
	w.line = append(line, '\n')
	if w.err == nil {
		_, w.err = w.to.Write(w.line)
	}
}

// flag writes 1 or 0.
func (w *writer) flag(value bool, labels ...string) {
	if value {
		w.metric(1, labels...)
	} else {
		w.metric(0, labels...)
	}
}

// appendEscaped appends a label's value.
func appendEscaped(to []byte, value string) []byte {
	if !strings.ContainsAny(value, "\\\"\n") {
		return append(to, value...)
	}
	return append(to, labelEscapes.Replace(value)...)
}

var labelEscapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

// family is one metric of the objects of a kind.
type family[T client.Object] struct {
	name, kind, help string
	of               func(w *writer, obj T)
}

const gauge, counter = "gauge", "counter"

// of returns what writes the families of a kind. common returns the labels that all of its metrics have.
func of[T client.Object](common func(obj T) []string, families ...family[T]) func(client.View, *writer) {
	return func(v client.View, w *writer) {
		all := client.List[T](v, "", nil)
		labels := make([][]string, len(all))
		for i, obj := range all {
			labels[i] = common(obj)
		}
		for _, f := range families {
			w.begin(f.name, f.kind, f.help)
			for i, obj := range all {
				if w.common = labels[i]; w.err == nil {
					f.of(w, obj)
				}
			}
		}
	}
}
