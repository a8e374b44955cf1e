package job

import (
	"sync"
	"time"

	"github.com/kontiki/kontiki/controller"
)

// A Job is synchronized again after a pause for each of the pods that were visited, so that one Job takes at most a small share of the
// controller's time however many pods it has, and the pods of a large Job are counted many at a time.
const (
	pausePerPod  = 50 * time.Microsecond
	longestPause = 5 * time.Second
	fewPods      = 100 // such a Job is synchronized without a pause
)

// pace remembers when Jobs with many pods may be synchronized again.
type pace struct {
	mu sync.Mutex
	at map[controller.Key]time.Time
}

// wait returns how long to wait with a Job.
func (p *pace) wait(key controller.Key) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	at, ok := p.at[key]
	if !ok {
		return 0
	}
	return time.Until(at)
}

// next sets the pause after a synchronization that visited a number of pods.
func (p *pace) next(key controller.Key, pods int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if pods < fewPods {
		delete(p.at, key)
		return
	}
	if p.at == nil {
		p.at = map[controller.Key]time.Time{}
	}
	p.at[key] = time.Now().Add(min(time.Duration(pods)*pausePerPod, longestPause))
}

func (p *pace) forget(key controller.Key) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.at, key)
}
