package flow

import (
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/user"
)

// A request occupies no seat while its client is slow to send the body. Bodies being received are limited separately, for each user
// and for all together; members of system:masters are not limited.
const (
	// Patience is how long a request keeps its seats while it waits for its client.
	Patience = 50 * time.Millisecond
	// SlowAfter is when a body counts as slow; the number of bodies that arrive sooner, as nearly all do, is not limited.
	SlowAfter = time.Second
	// smallBody is the size in bytes up to which a body does not count towards the limit of bytes.
	smallBody = 64 << 10

	slowEach, slowAll             = 16, 64
	largeBytesEach, largeBytesAll = 32 << 20, 128 << 20
)

// bodies counts the bodies being received. The zero value is ready to use.
type bodies struct {
	mu    sync.Mutex
	all   arriving
	users map[string]*arriving
}

// arriving counts bodies being received: the bytes of large ones, and the number of slow ones.
type arriving struct {
	bytes int64
	slow  int
}

// Body is one body being received. Its methods do nothing if it is nil.
type Body struct {
	of    *bodies
	user  string
	bytes int64
	slow  bool
}

// Receive begins to receive a body of at most that many bytes. The caller must call Slow once SlowAfter has passed, and Done when
// the body has arrived or will not arrive.
func (c *Control) Receive(who user.Info, bytes int64) (*Body, error) {
	if c == nil || slices.Contains(who.GetGroups(), user.SystemPrivilegedGroup) {
		return nil, nil
	}
	if bytes <= smallBody {
		bytes = 0
	}
	b := &Body{of: &c.bodies, user: who.GetName(), bytes: bytes}
	if !b.of.take(b.user, arriving{bytes: bytes}) {
		return nil, tooManyBodies()
	}
	return b, nil
}

// Slow reports that the body has not arrived yet. If it returns an error, the request must fail with it.
func (b *Body) Slow() error {
	if b == nil || b.slow {
		return nil
	}
	if !b.of.take(b.user, arriving{slow: 1}) {
		return tooManyBodies()
	}
	b.slow = true
	return nil
}

// Done ends the receiving. Slow must not be called afterwards.
func (b *Body) Done() {
	if b == nil {
		return
	}
	give := arriving{bytes: b.bytes}
	if b.slow {
		give.slow = 1
	}
	b.of.give(b.user, give)
}

func tooManyBodies() error {
	return apierrors.NewTooManyRequests("Too many request bodies are on the way, please try again later.", 1)
}

func (b *bodies) take(user string, n arriving) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	each := b.users[user]
	if each == nil {
		each = &arriving{}
	}
	if n.bytes > 0 && (each.bytes+n.bytes > largeBytesEach || b.all.bytes+n.bytes > largeBytesAll) ||
		n.slow > 0 && (each.slow+n.slow > slowEach || b.all.slow+n.slow > slowAll) {
		return false
	}
	each.add(n, 1)
	b.all.add(n, 1)
	if *each != (arriving{}) {
		if b.users == nil {
			b.users = map[string]*arriving{}
		}
		b.users[user] = each
	}
	return true
}

func (b *bodies) give(user string, n arriving) {
	if n == (arriving{}) {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.all.add(n, -1)
	each := b.users[user]
	if each.add(n, -1); *each == (arriving{}) {
		delete(b.users, user)
	}
}

func (a *arriving) add(n arriving, sign int64) {
	a.bytes += sign * n.bytes
	a.slow += int(sign) * n.slow
}
