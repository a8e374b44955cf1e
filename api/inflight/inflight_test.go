package inflight

import (
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/user"
)

var (
	joe   = &user.DefaultInfo{Name: "joe", Groups: []string{"devs", user.AllAuthenticated}}
	admin = &user.DefaultInfo{Name: "admin", Groups: []string{user.SystemPrivilegedGroup, user.AllAuthenticated}}
)

func entered(t *testing.T, l *Limits, mutating bool, who user.Info) Place {
	t.Helper()
	place, err := l.Enter(mutating, who)
	if err != nil {
		t.Fatalf("%s was refused: %v", who.GetName(), err)
	}
	return place
}

func refused(t *testing.T, l *Limits, mutating bool, who user.Info) {
	t.Helper()
	_, err := l.Enter(mutating, who)
	if seconds, again := apierrors.SuggestsClientDelay(err); !apierrors.IsTooManyRequests(err) || !again || seconds != 1 {
		t.Fatalf("%v, after %d s", err, seconds)
	}
}

func received(t *testing.T, l *Limits, who user.Info, bytes int64) *Body {
	t.Helper()
	b, err := l.Receive(who, bytes)
	if err != nil {
		t.Fatalf("%s was refused: %v", who.GetName(), err)
	}
	return b
}

func TestBodiesOnTheWayAreBounded(t *testing.T) {
	l := New(1, 1)
	const large = 3 << 20
	user := func(name string) user.Info { return &user.DefaultInfo{Name: name} }
	var all []*Body
	take := func(who string, bytes int64, slow bool) error {
		b, err := l.Receive(user(who), bytes)
		if err == nil && slow {
			err = b.Slow()
		}
		if b != nil {
			all = append(all, b)
		}
		return err
	}
	for range 10 {
		if err := take("a", large, false); err != nil {
			t.Fatal(err)
		}
	}
	if err := take("a", large, false); !apierrors.IsTooManyRequests(err) {
		t.Errorf("an eleventh large body of one user: %v", err)
	}
	if err := take("a", 1000, false); err != nil {
		t.Errorf("a small one: %v", err)
	}
	n := 10
	for ; take("b"+string(rune('a'+n/10)), large, false) == nil; n++ {
	}
	if n != 42 {
		t.Errorf("%d large bodies of all users, want 42", n)
	}
	for i := range slowEach {
		if err := take("slow", 1, true); err != nil {
			t.Fatal(i, err)
		}
	}
	if err := take("slow", 1, true); !apierrors.IsTooManyRequests(err) {
		t.Errorf("one slow body more: %v", err)
	}
	received(t, l, admin, large).Done()
	for _, b := range all {
		b.Done()
	}
	if l.bodies.all != (arriving{}) || len(l.bodies.users) != 0 {
		t.Errorf("left: %+v, %v", l.bodies.all, l.bodies.users)
	}
	var none *Limits
	received(t, none, joe, large).Done()
}

func TestEachKindHasItsPlaces(t *testing.T) {
	l := New(2, 1)
	reads := []Place{entered(t, l, false, joe), entered(t, l, false, joe)}
	refused(t, l, false, joe)
	write := entered(t, l, true, joe)
	refused(t, l, true, joe)
	reads[0].Leave()
	reads[0] = entered(t, l, false, joe)
	refused(t, l, false, joe)
	// Administrators are served. They neither take a place from others nor release one that they do not have.
	more := entered(t, l, true, admin)
	more.Leave()
	refused(t, l, true, joe)
	write.Leave()
	entered(t, l, true, admin)
	refused(t, l, true, joe)
}

func TestZeroIsNoLimit(t *testing.T) {
	for name, l := range map[string]*Limits{"none": nil, "zero": New(0, 0)} {
		for range DefaultReadOnly + 1 {
			entered(t, l, false, joe)
			entered(t, l, true, joe)
		}
		place, err := l.Enter(true, joe)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		place.Leave()
	}
	onlyReads := New(1, 0)
	entered(t, onlyReads, false, joe)
	entered(t, onlyReads, true, joe)
	entered(t, onlyReads, true, joe)
	refused(t, onlyReads, false, joe)
}

func BenchmarkEnter(b *testing.B) {
	l := New(DefaultReadOnly, DefaultMutating)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			place, err := l.Enter(false, joe)
			if err != nil {
				b.Fatal(err)
			}
			place.Leave()
		}
	})
}
