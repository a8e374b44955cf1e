package inflight

import (
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/user"
)

// A request holds no place while its body is on the way: whoever sends slowly would hold it for that long. What arrives is
// bounded by itself, for each user and for all together; members of system:masters are not bounded.
const (
	// SlowAfter is when a body counts as slow; those that arrive before, as nearly all do, are not counted in number.
	SlowAfter = time.Second
	// smallBody is the size, in bytes, of bodies that are not counted in size.
	smallBody = 64 << 10

	slowEach, slowAll             = 16, 64
	largeBytesEach, largeBytesAll = 32 << 20, 128 << 20
)

// bodies counts the bodies on the way. The zero value is ready.
type bodies struct {
	mu    sync.Mutex
	all   arriving
	users map[string]*arriving
}

// arriving are bodies on the way: the bytes of large ones, and how many are slow.
type arriving struct {
	bytes int64
	slow  int
}

// Body is one body on the way. Its methods do nothing on nil.
type Body struct {
	of    *bodies
	user  string
	bytes int64
	slow  bool
}

// Receive begins to receive a body of at most so many bytes. The caller calls Slow once SlowAfter has passed, and Done when
// the body is there, or will not come.
func (l *Limits) Receive(who user.Info, bytes int64) (*Body, error) {
	if l == nil || slices.Contains(who.GetGroups(), user.SystemPrivilegedGroup) {
		return nil, nil
	}
	if bytes <= smallBody {
		bytes = 0
	}
	b := &Body{of: &l.bodies, user: who.GetName(), bytes: bytes}
	if !b.of.take(b.user, arriving{bytes: bytes}) {
		return nil, tooManyBodies()
	}
	return b, nil
}

// Slow says that the body is still on the way. Its error is the one to answer in place of waiting further.
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

// Done ends the receiving. Slow is not called any more.
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
	return apierrors.NewTooManyRequests("Too many request bodies are on the way, please try again later.", retryAfterSeconds)
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
