package flow

import (
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
)

func TestDumps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := oneLevel(1, queuing("one", 100, 4, 1, 10))
		held := enters(t, c, as("joe,\nfake"))
		var group sync.WaitGroup
		for range 2 {
			group.Go(func() {
				seat, _, _ := c.Enter(t.Context(), as("joe"))
				seat.Leave()
			})
		}
		synctest.Wait()
		dump := func(page string) []string {
			w := httptest.NewRecorder()
			c.ServeHTTP(w, httptest.NewRequest("GET", Dumps+page, nil))
			var lines []string
			for _, line := range strings.Split(strings.TrimSpace(w.Body.String()), "\n") {
				lines = append(lines, strings.Join(strings.Fields(line), " "))
			}
			return lines
		}
		if got := dump("/dump_priority_levels"); len(got) != 4 || got[3] != "one, 1, false, false, 2, 1, 1, 0, 0, 0" ||
			got[0] != "PriorityLevelName, ActiveQueues, IsIdle, IsQuiescing, WaitingRequests, ExecutingRequests, DispatchedRequests, RejectedRequests, TimedoutRequests, CancelledRequests" {
			t.Errorf("%q", got)
		}
		if got := dump("/dump_queues"); len(got) != 5 || !strings.HasPrefix(got[1], "one, 0, ") {
			t.Errorf("%q", got)
		}
		if got := dump("/dump_requests"); len(got) != 4 || !strings.Contains(strings.Join(got, "\n"), "one, to-one, ") {
			t.Errorf("%q", got)
		}
		if got := dump("/dump_requests?includeRequestDetails=1"); len(got) != 4 || !strings.HasSuffix(got[1], "get, /api/v1/namespaces/ns/pods/a, ns, a, v1, pods,") {
			t.Errorf("%q", got)
		}
		if got := dump("/other"); got[0] != "404 page not found" {
			t.Errorf("%q", got)
		}
		held.Leave()
		group.Wait()
	})
}
