package webhooks

import (
	"sync"
	"time"
)

const (
	// slow is how long a call must have taken for its failure to count as an outage. What fails faster, as when a connection is refused or a
	// service has no pods, costs a write little, so it is tried each time: the webhook is asked again at the moment at which it is back.
	slow = 500 * time.Millisecond
	// pause is how long a webhook is not asked after it has not answered in time.
	pause = 10 * time.Second
)

// circuit remembers that a webhook with failure policy Ignore does not answer. Then requests are admitted without it, as they would be after
// its timeout: an outage costs its timeout once, not once for each write in a queue. When the pause is over one request tries the webhook,
// while the others still go without it; an answer ends the outage.
//
// Nothing rests on such a webhook being asked: whoever chooses Ignore accepts that requests are admitted without it while it does not answer.
// The pause adds at most its length to that time. A changed configuration begins anew. Each master has its own circuits. The zero value is
// ready for use.
type circuit struct {
	mu     sync.Mutex
	until  time.Time // the end of the pause; zero if there is no outage
	trying bool
}

// enter says whether to call the webhook.
func (c *circuit) enter(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.until.IsZero() {
		return true
	}
	if c.trying || now.Before(c.until) {
		return false
	}
	c.trying = true
	return true
}

// left records how a call ended that took a time; abandoned means that the caller did not wait for its end, which says nothing about the webhook.
func (c *circuit) left(failed, abandoned bool, took time.Duration, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.trying = false
	switch {
	case abandoned:
	case !failed:
		c.until = time.Time{}
	case took >= slow:
		c.until = now.Add(pause)
	case !c.until.IsZero(): // it fails fast now
		c.until = time.Time{}
	}
}
