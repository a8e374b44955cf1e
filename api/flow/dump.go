package flow

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	apischema "k8s.io/apimachinery/pkg/runtime/schema"
)

// Dumps serves upstream's debugging pages, below this path.
const Dumps = "/debug/api_priority_and_fairness"

// ServeHTTP implements http.Handler for the pages below Dumps.
func (c *Control) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var rows [][]string
	switch strings.TrimPrefix(r.URL.Path, Dumps) {
	case "/dump_priority_levels":
		rows = c.dumpLevels()
	case "/dump_queues":
		rows = c.dumpQueues()
	case "/dump_requests":
		rows = c.dumpRequests(r.URL.Query().Get("includeRequestDetails") != "")
	default:
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	table := tabwriter.NewWriter(w, 8, 0, 1, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(table, strings.Join(row, ",\t"))
	}
	table.Flush()
}

// each calls visit with each level, in order of name and locked.
func (c *Control) each(visit func(l *level)) {
	c.mu.Lock()
	levels := make([]*level, 0, len(c.levels))
	for _, l := range c.levels {
		levels = append(levels, l)
	}
	c.mu.Unlock()
	slices.SortFunc(levels, func(a, b *level) int { return strings.Compare(a.name, b.name) })
	for _, l := range levels {
		l.mu.Lock()
		visit(l)
		l.mu.Unlock()
	}
}

func (c *Control) dumpLevels() [][]string {
	rows := [][]string{{"PriorityLevelName", "ActiveQueues", "IsIdle", "IsQuiescing", "WaitingRequests", "ExecutingRequests",
		"DispatchedRequests", "RejectedRequests", "TimedoutRequests", "CancelledRequests"}}
	c.each(func(l *level) {
		active := 0
		for _, q := range l.queues {
			if q.waiting.length > 0 {
				active++
			}
		}
		rows = append(rows, texts(l.name, active, l.idle(), l.quiescing, l.waiting, l.serving, l.dispatched, l.rejected, l.timedOut, l.cancelled))
	})
	return rows
}

func (c *Control) dumpQueues() [][]string {
	rows := [][]string{{"PriorityLevelName", "Index", "PendingRequests", "ExecutingRequests", "SeatsInUse", "NextDispatchR",
		"InitialSeatsSum", "MaxSeatsSum", "TotalWorkSum"}}
	c.each(func(l *level) {
		for i, q := range l.queues {
			initial := 0
			for r := q.waiting.first; r != nil; r = r.next {
				initial += r.width.seats
			}
			rows = append(rows, texts(l.name, i, q.waiting.length, q.executing.length, q.seats, q.next, initial, q.seatsWanted, q.work))
		}
	})
	return rows
}

// mostDumped limits the rows of dump_requests, each of which may have texts that clients chose.
const mostDumped = 10_000

func (c *Control) dumpRequests(details bool) [][]string {
	head := []string{"PriorityLevelName", "FlowSchemaName", "QueueIndex", "RequestIndexInQueue", "FlowDistingsher", "ArriveTime",
		"InitialSeats", "FinalSeats", "AdditionalLatency", "StartTime"}
	if details {
		head = append(head, "UserName", "Verb", "APIPath", "Namespace", "Name", "APIVersion", "Resource", "SubResource")
	}
	rows := [][]string{head}
	add := func(l *level, queue, index int, r *request) {
		if len(rows) > mostDumped {
			return
		}
		started := time.Time{}
		if r.state != waiting {
			started = r.dispatched
		}
		row := texts(l.name, r.schema, queue, index, r.distinguisher, stamp(r.arrived), r.width.seats, r.width.final, r.width.extra, stamp(started))
		if details {
			version := apischema.GroupVersion{Group: r.Group, Version: r.Version}
			row = append(row, texts(r.User.GetName(), r.Verb, r.Path, r.Namespace, r.ObjectName, version, r.Resource, r.Subresource)...)
		}
		rows = append(rows, row)
	}
	c.each(func(l *level) {
		for i, q := range l.queues {
			index := 0
			for r := q.waiting.first; r != nil; r = r.next {
				add(l, i, index, r)
				index++
			}
			for r := q.executing.first; r != nil; r = r.next {
				add(l, i, -1, r)
			}
		}
		for r := l.unqueued.first; r != nil; r = r.next {
			add(l, -1, -1, r)
		}
	})
	return rows
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

// texts returns a row of values. Line breaks and columns in them would forge rows.
func texts(values ...any) []string {
	row := make([]string, len(values))
	for i, v := range values {
		row[i] = strings.Map(func(c rune) rune {
			if c < ' ' {
				return ' '
			}
			return c
		}, fmt.Sprint(v))
	}
	return row
}
