package consensus

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/kontiki/kontiki/cluster/mtls"
	"github.com/kontiki/kontiki/test/await"
)

func TestRoundsAreSharedAndNeverOlderThanTheirCallers(t *testing.T) {
	var tasks tasks
	var clock, runs int
	var mu sync.Mutex
	release := make(chan struct{})
	entered := make(chan struct{}, 16)
	r := round[int]{tasks: &tasks, run: func() (int, error) {
		mu.Lock()
		runs++
		now := clock
		mu.Unlock()
		entered <- struct{}{}
		<-release
		return now, nil
	}}
	first := make(chan int, 1)
	go func() { v, _ := r.do(context.Background()); first <- v }()
	<-entered
	mu.Lock()
	clock = 1 // what a later caller must see
	mu.Unlock()
	const late = 50
	results := make(chan int, late)
	var joined sync.WaitGroup
	for range late {
		joined.Add(1)
		go func() {
			joined.Done()
			v, _ := r.do(context.Background())
			results <- v
		}()
	}
	joined.Wait()
	await.That(t, "a second round being asked for", func() error {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.next == nil {
			return errors.New("nobody waits")
		}
		return nil
	})
	close(release)
	if v := <-first; v != 0 {
		t.Errorf("the first caller got %d", v)
	}
	for range late {
		if v := <-results; v != 1 {
			t.Errorf("a caller got a result from before it asked")
		}
	}
	mu.Lock()
	if runs > 10 {
		t.Errorf("%d callers took %d rounds", late+1, runs)
	}
	mu.Unlock()
	tasks.close()
	if _, err := r.do(context.Background()); !errors.Is(err, mtls.ErrClosed) {
		t.Errorf("after close: %v", err)
	}
}
