package rest

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// check is one health check.
type check struct {
	name string
	run  func(c *call) error
}

var (
	ping   = check{"ping", func(*call) error { return nil }}
	quorum = check{"quorum", func(c *call) error {
		if c.Ready == nil {
			return nil
		}
		return c.Ready(c.r.Context())
	}}
)

// Check is a further check of readiness, under upstream's name of it.
type Check struct {
	Name string
	Run  func(context.Context) error
}

// checks returns the checks of a health path. livez does not require what a restart would not help.
func (s *Server) checks(root string) []check {
	if root == "livez" {
		return []check{ping}
	}
	all := []check{ping, quorum}
	for _, further := range s.Checks {
		all = append(all, check{further.Name, func(c *call) error { return further.Run(c.r.Context()) }})
	}
	return all
}

// serveHealth serves /livez, /readyz and /healthz, and single checks below each, in upstream's format.
func (c *call) serveHealth() {
	root, one, single := strings.Cut(strings.TrimPrefix(c.r.URL.Path, "/"), "/")
	checks := c.checks(root)
	if single && one != "" {
		i := slices.IndexFunc(checks, func(k check) bool { return k.name == one })
		if i < 0 {
			c.fail(noSuchPath(c.r))
			return
		}
		if err := checks[i].run(c); err != nil {
			http.Error(c.w, fmt.Sprintf("internal server error: %v", err), http.StatusInternalServerError)
			return
		}
		fmt.Fprint(c.w, "ok")
		return
	}
	query := c.r.URL.Query()
	unknown := slices.Compact(slices.Sorted(slices.Values(query["exclude"])))
	var report strings.Builder
	failed := false
	for _, k := range checks {
		if i := slices.Index(unknown, k.name); i >= 0 {
			unknown = slices.Delete(unknown, i, i+1)
			fmt.Fprintf(&report, "[+]%s excluded: ok\n", k.name)
			continue
		}
		if err := k.run(c); err != nil {
			// Unauthenticated callers may read this response; only the check's own path gives the reason.
			c.Log.Debug("a health check failed", "path", c.r.URL.Path, "check", k.name, "error", err)
			fmt.Fprintf(&report, "[-]%s failed: reason withheld\n", k.name)
			failed = true
			continue
		}
		fmt.Fprintf(&report, "[+]%s ok\n", k.name)
	}
	if len(unknown) > 0 {
		quoted := make([]string, len(unknown))
		for i, name := range unknown {
			quoted[i] = fmt.Sprintf("%q", name)
		}
		fmt.Fprintf(&report, "warn: some health checks cannot be excluded: no matches for %s\n", strings.Join(quoted, ","))
	}
	if failed {
		http.Error(c.w, fmt.Sprintf("%s%s check failed", report.String(), root), http.StatusInternalServerError)
		return
	}
	c.w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	c.w.Header().Set("X-Content-Type-Options", "nosniff")
	if !query.Has("verbose") {
		fmt.Fprint(c.w, "ok")
		return
	}
	fmt.Fprintf(c.w, "%s%s check passed\n", report.String(), root)
}
