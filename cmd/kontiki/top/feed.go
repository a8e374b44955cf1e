package top

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"
)

// Times between requests: to lists that cannot be watched and metrics, and after errors.
const (
	pollEvery  = 10 * time.Second
	retryFirst = time.Second
	retryLast  = 30 * time.Second
)

const asTable = "application/json;as=Table;v=v1;g=meta.k8s.io"

// Query is what a table shows. An empty namespace means all.
type Query struct {
	Kind           Kind
	Namespace      string
	Labels, Fields string // selectors
	Of             string // whose objects the selectors choose, for the title
}

// Usage is what a pod or node uses.
type Usage struct {
	Milli int64 // thousandths of a processor
	Bytes int64
}

// Snapshot is the state of a Feed. Its rows are in no order, and are not changed.
type Snapshot struct {
	Columns  []Column
	Rows     []*Row
	Listed   bool             // the list was read to its end, or to the limit
	More     bool             // there are more objects than are kept
	Err      string           // why the rows may be out of date or missing
	Usage    map[string]Usage // by namespace/name; nil if the kind has none
	UsageErr string
}

// Feed follows one list. It is safe for concurrent use.
type Feed struct {
	client  rest.Interface
	query   Query
	changed chan<- struct{} // gets a value, if it has room, after changes

	mu      sync.Mutex
	state   Snapshot // without rows
	rows    map[string]*Row
	version string
}

func newFeed(client rest.Interface, query Query, changed chan<- struct{}) *Feed {
	return &Feed{client: client, query: query, changed: changed, rows: map[string]*Row{}}
}

// Snapshot returns the state.
func (f *Feed) Snapshot() Snapshot {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.state
	s.Rows = make([]*Row, 0, len(f.rows))
	for _, r := range f.rows {
		s.Rows = append(s.Rows, r)
	}
	return s
}

// update changes the state.
func (f *Feed) update(change func()) {
	f.mu.Lock()
	change()
	f.mu.Unlock()
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

// run lists and watches until the context ends.
func (f *Feed) run(ctx context.Context) {
	var metrics sync.WaitGroup
	defer metrics.Wait()
	if f.query.Kind.is("", "pods") || f.query.Kind.is("", "nodes") {
		metrics.Go(func() { f.measure(ctx) })
	}
	wait := retryFirst
	for {
		err := f.list(ctx)
		for err == nil {
			wait = retryFirst
			if !f.query.Kind.Watched {
				if !sleep(ctx, pollEvery) {
					return
				}
				break
			}
			err = f.watch(ctx)
		}
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			continue
		}
		if gone := apierrors.IsResourceExpired(err) || apierrors.IsGone(err); gone {
			if !sleep(ctx, retryFirst) { // no error: it is listed again
				return
			}
			continue
		}
		f.update(func() { f.state.Err = clean(err.Error(), lineBytes) })
		if !sleep(ctx, wait) {
			return
		}
		wait = min(2*wait, retryLast)
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// request begins a request about the list.
func (f *Feed) request() (*rest.Request, error) {
	path, err := f.query.Kind.path(f.query.Namespace, "")
	if err != nil {
		return nil, err
	}
	r := f.client.Get().AbsPath(path).SetHeader("Accept", asTable)
	if f.query.Labels != "" {
		r = r.Param("labelSelector", f.query.Labels)
	}
	if f.query.Fields != "" {
		r = r.Param("fieldSelector", f.query.Fields)
	}
	return r, nil
}

// list reads the list in pages. Rows of the first list are shown as they come; later lists replace it at their end.
func (f *Feed) list(ctx context.Context) error {
	rows := map[string]*Row{}
	next := ""
	for {
		request, err := f.request()
		if err != nil {
			return err
		}
		request = request.Param("limit", strconv.Itoa(pageRows))
		if next != "" {
			request = request.Param("continue", next)
		}
		var page tableDocument
		if err := fetchJSON(ctx, request, pageBytes, &page); err != nil {
			return err
		}
		if page.Kind != "Table" {
			return fmt.Errorf("the server sent no table of %s", f.query.Kind.Title())
		}
		for _, r := range page.rows() {
			if len(rows) < maxRows {
				rows[r.key()] = r
			}
		}
		full := len(rows) == maxRows && (page.Metadata.Continue != "" || page.Metadata.RemainingItemCount > 0)
		done := page.Metadata.Continue == "" || full
		f.update(func() {
			if next == "" {
				if columns := page.columns(); len(columns) > 0 || len(f.rows) == 0 {
					f.state.Columns = columns
				}
			}
			if done {
				f.rows, f.version = rows, page.Metadata.ResourceVersion
				f.state.Listed, f.state.More, f.state.Err = true, full, ""
			} else if !f.state.Listed {
				for key, r := range rows {
					f.rows[key] = r
				}
			}
		})
		if done {
			return nil
		}
		next = page.Metadata.Continue
	}
}

// watch applies changes until the watch ends, which is no error: it is begun again after the last change.
func (f *Feed) watch(ctx context.Context) error {
	request, err := f.request()
	if err != nil {
		return err
	}
	body, err := request.Param("watch", "true").Param("allowWatchBookmarks", "true").Param("resourceVersion", f.version).Stream(ctx)
	if err != nil {
		return err
	}
	defer body.Close()
	f.update(func() { f.state.Err = "" })
	events := bufio.NewScanner(body)
	events.Buffer(nil, eventBytes)
	began := time.Now()
	for events.Scan() {
		if err := f.apply(events.Bytes()); err != nil {
			return err
		}
	}
	if err := events.Err(); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("the watch of %s: %w", f.query.Kind.Title(), err)
	}
	if time.Since(began) < time.Second { // a server that ends watches at once is not asked without pause
		sleep(ctx, retryFirst)
	}
	return ctx.Err()
}

// apply applies an event of a watch.
func (f *Feed) apply(line []byte) error {
	if len(bytes.TrimSpace(line)) == 0 {
		return nil
	}
	var event struct {
		Type   string
		Object tableDocument
	}
	decoder := json.NewDecoder(bytes.NewReader(line))
	decoder.UseNumber()
	if err := decoder.Decode(&event); err != nil {
		return fmt.Errorf("an event of the watch: %w", err)
	}
	if event.Type == "ERROR" {
		if event.Object.Code == http.StatusGone {
			return apierrors.NewResourceExpired(event.Object.Message)
		}
		return errors.New(event.Object.Message)
	}
	rows := event.Object.rows()
	f.update(func() {
		if v := event.Object.Metadata.ResourceVersion; v != "" {
			f.version = v
		}
		for i, r := range rows {
			if v := event.Object.Rows[i].Object.Metadata.ResourceVersion; v != "" {
				f.version = v
			}
			_, known := f.rows[r.key()]
			switch {
			case event.Type == "DELETED":
				delete(f.rows, r.key())
			case event.Type == "BOOKMARK":
			case known || len(f.rows) < maxRows:
				f.rows[r.key()] = r
			default:
				f.state.More = true
			}
		}
	})
	return nil
}

// fetchJSON decodes an answer of at most the given size.
func fetchJSON(ctx context.Context, request *rest.Request, most int64, into any) error {
	body, err := request.Stream(ctx)
	if err != nil {
		return err
	}
	defer body.Close()
	limited := &io.LimitedReader{R: body, N: most}
	decoder := json.NewDecoder(limited)
	decoder.UseNumber()
	if err := decoder.Decode(into); err != nil {
		if limited.N <= 0 {
			return fmt.Errorf("the answer is larger than %d MiB", most>>20)
		}
		return fmt.Errorf("the answer: %w", err)
	}
	return nil
}
