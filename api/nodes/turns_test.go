package nodes

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// TestFullSetsTakeTurns: only some are sent at a time, a worker has one turn at a time, and one that does not end does not keep the others
// waiting for ever.
func TestFullSetsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns(2, 10*time.Second)
		began := make(chan string, 10)
		take := func(node string) (end func()) {
			ended := make(chan struct{})
			go func() {
				done, err := turns.take(t.Context(), node)
				if err != nil {
					t.Error(err)
					return
				}
				began <- node
				<-ended
				done()
				done() // again has no effect
			}()
			synctest.Wait()
			return func() { close(ended); synctest.Wait() }
		}
		want := func(nodes ...string) {
			t.Helper()
			synctest.Wait()
			for _, node := range nodes {
				select {
				case got := <-began:
					if got != node {
						t.Errorf("%s began, want %s", got, node)
					}
				default:
					t.Errorf("%s has not begun", node)
				}
			}
			if len(began) > 0 {
				t.Errorf("%s began too", <-began)
			}
		}
		endA := take("a")
		endA2 := take("a")
		endB := take("b")
		want("a", "b")
		endC := take("c")
		endB()
		want("c") // a second session of a waits for the first
		gone, leave := context.WithCancel(t.Context())
		left := make(chan error, 1)
		go func() { _, err := turns.take(gone, "d"); left <- err }()
		synctest.Wait()
		leave()
		if err := <-left; err == nil {
			t.Error("a session that ended had its turn")
		}
		endA()
		want("a")
		endE := take("e")
		want()
		time.Sleep(10 * time.Second) // virtual: a's and c's turns are over
		want("e")
		endA2()
		endC()
		endE()
		if turns.free != 2 || len(turns.busy) != 0 || len(turns.waiting) != 0 {
			t.Errorf("%d free, %d busy, %d waiting", turns.free, len(turns.busy), len(turns.waiting))
		}
	})
}
