package kv

import (
	"errors"
	"fmt"
	"math/rand"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"unsafe"
)

func TestPrefixEnd(t *testing.T) {
	for prefix, want := range map[string]string{
		"":           "",
		"a":          "b",
		"/a/b/":      "/a/b0",
		"a\xff":      "b",
		"a\xff\xff":  "b",
		"\xff":       "",
		"\xff\xff":   "",
		"a\xfe":      "a\xff",
		"/\xffa\xff": "/\xffb",
	} {
		got := PrefixEnd(prefix)
		if got != want {
			t.Errorf("PrefixEnd(%q) = %q, want %q", prefix, got, want)
		}
		for _, key := range []string{prefix, prefix + "\x00", prefix + "\xff\xff", prefix + "x"} {
			if got != "" && key >= got {
				t.Errorf("%q has the prefix %q and is not before %q", key, prefix, got)
			}
		}
		if got != "" && strings.HasPrefix(got, prefix) {
			t.Errorf("PrefixEnd(%q) = %q has the prefix itself", prefix, got)
		}
	}
}

func TestFailureSaysWhat(t *testing.T) {
	var err error = &Failure{Index: 2, Cond: Exists, Current: 7}
	var f *Failure
	if !errors.As(fmt.Errorf("put: %w", err), &f) || f.Index != 2 || !strings.Contains(err.Error(), "operation 2") || !strings.Contains(err.Error(), "revision 7") {
		t.Errorf("%v", err)
	}
}

// TestVersionIsSmall: a store has hundreds of thousands of versions.
func TestVersionIsSmall(t *testing.T) {
	if n := unsafe.Sizeof(Version{}); n > 80 {
		t.Errorf("a version takes %d bytes", n)
	}
}

// slots is how many slots the tests use.
const slots = 5

func TestFormBuiltOnce(t *testing.T) {
	for name, cache := range map[string]*FormCache{"in a store": NewFormCache(1 << 20), "outside a store": nil} {
		t.Run(name, func(t *testing.T) {
			v := cache.NewVersion("/k", []byte("value"), 1, 2)
			var builds [slots]atomic.Int32
			var readers atomic.Int32
			var wg sync.WaitGroup
			start := make(chan struct{})
			for i := range 64 {
				wg.Go(func() {
					<-start
					readers.Add(1)
					slot := FormSlot(i % slots)
					got, err := v.Form(slot, func(v *Version) (any, int, error) {
						builds[slot].Add(1)
						for readers.Load() < 64 { // nobody has a form before all have asked, or are about to
							runtime.Gosched()
						}
						return fmt.Sprint(slot, string(v.Value)), 10, nil
					})
					if err != nil || got != fmt.Sprint(slot, "value") {
						t.Errorf("slot %d: %v, %v", slot, got, err)
					}
				})
			}
			close(start)
			wg.Wait()
			for slot := range builds {
				if n := builds[slot].Load(); n != 1 {
					t.Errorf("slot %d was built %d times", slot, n)
				}
			}
		})
	}
	literal := &Version{Key: "/k"}
	if got, err := literal.Form(3, func(*Version) (any, int, error) { return 1, 1, nil }); got != 1 || err != nil {
		t.Errorf("a literal: %v, %v", got, err)
	}
}

func TestFormErrorIsNotKept(t *testing.T) {
	v := NewFormCache(1000).NewVersion("/k", nil, 1, 1)
	broken := errors.New("broken")
	if _, err := v.Form(0, func(*Version) (any, int, error) { return nil, 0, broken }); err != broken {
		t.Fatal(err)
	}
	func() {
		defer func() { _ = recover() }()
		_, _ = v.Form(0, func(*Version) (any, int, error) { panic("a builder's fault") })
	}()
	if got, err := v.Form(0, func(*Version) (any, int, error) { return "good", 1, nil }); got != "good" || err != nil {
		t.Fatal(got, err)
	}
}

// TestFormFromForm: a form may be derived from another.
func TestFormFromForm(t *testing.T) {
	v := NewFormCache(1000).NewVersion("/k", []byte("x"), 1, 1)
	object := func(v *Version) (any, int, error) { return string(v.Value), 1, nil }
	got, err := v.Form(1, func(v *Version) (any, int, error) {
		o, err := v.Form(0, object)
		return o.(string) + "!", 1, err
	})
	if got != "x!" || err != nil {
		t.Fatal(got, err)
	}
}

// ringOf follows the cache's ring and checks its sums.
func ringOf(t *testing.T, c *FormCache) int {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	n, bytes := 0, int64(0)
	for e := c.hand; e != nil; {
		if e.slot.entry.Load() != e || e.next.prev != e {
			t.Fatal("the ring is broken")
		}
		n, bytes = n+1, bytes+e.size
		if e = e.next; e == c.hand {
			break
		}
	}
	if n != c.count || bytes != c.bytes || bytes > c.limit {
		t.Fatalf("%d forms of %d bytes, counted %d of %d, the limit is %d", n, bytes, c.count, c.bytes, c.limit)
	}
	return n
}

func TestFormCacheIsBounded(t *testing.T) {
	const each, limit = 1000, 10 * (1000 + formOverhead)
	c := NewFormCache(limit)
	build := func(size int) BuildForm {
		return func(v *Version) (any, int, error) { return v.Key, size, nil }
	}
	read := func(v *Version, size int) (built bool) {
		t.Helper()
		got, err := v.Form(0, func(v *Version) (any, int, error) { built = true; return build(size)(v) })
		if err != nil || got != v.Key {
			t.Fatal(got, err)
		}
		return built
	}
	hot := c.NewVersion("/hot", nil, 1, 1)
	read(hot, each)
	for i := range 1000 { // a long list, each read once
		read(c.NewVersion(fmt.Sprint("/", i), nil, 1, 1), each)
		if read(hot, each) {
			t.Fatalf("what is read all the time was dropped after %d others", i)
		}
	}
	if n := ringOf(t, c); n != 10 {
		t.Fatalf("%d forms are kept", n)
	}
	large := c.NewVersion("/large", nil, 1, 1)
	first := read(large, limit)
	if second := read(large, limit); !first || !second || ringOf(t, c) != 10 {
		t.Fatal("a form larger than the cache pushed others out")
	}
	c.Forget(hot)
	c.Forget(hot)
	c.Forget(&Version{})
	if n := ringOf(t, c); n != 9 {
		t.Fatalf("%d forms are kept", n)
	}
	if !read(hot, each) || ringOf(t, c) != 10 {
		t.Fatal("a forgotten version cannot be read")
	}
	c.Clear()
	if bytes, forms := c.Usage(); bytes != 0 || forms != 0 || ringOf(t, c) != 0 {
		t.Fatal(bytes, forms)
	}
}

// TestFormCacheUnderPressure: many readers of more forms than fit always get the right one, within the limit.
func TestFormCacheUnderPressure(t *testing.T) {
	c := NewFormCache(20 << 10)
	var versions []*Version
	for i := range 200 {
		versions = append(versions, c.NewVersion(fmt.Sprint("/", i), nil, 1, 1))
	}
	var wg sync.WaitGroup
	for seed := range int64(8) {
		wg.Go(func() {
			r := rand.New(rand.NewSource(seed))
			for i := range 5000 {
				v, slot := versions[r.Intn(len(versions))], FormSlot(r.Intn(slots))
				got, err := v.Form(slot, func(v *Version) (any, int, error) { return v.Key + fmt.Sprint(slot), r.Intn(500), nil })
				if err != nil || got != v.Key+fmt.Sprint(slot) {
					t.Errorf("%v, %v", got, err)
				}
				if i%100 == 0 {
					c.Forget(v)
				}
				if i%1000 == 0 {
					c.Clear()
				}
			}
		})
	}
	wg.Wait()
	ringOf(t, c)
}
