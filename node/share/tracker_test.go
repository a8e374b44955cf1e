package share

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

const anImage = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func TestTheFirstAsksTheRegistryAndTheOthersEachOther(t *testing.T) {
	tr := newTracker()
	if source := tr.begin(anImage, "n0", nil); source != "" {
		t.Fatalf("the first is sent to %q", source)
	}
	children := map[string]int{}
	for i := 1; i < 100; i++ {
		source := tr.begin(anImage, fmt.Sprint("n", i), nil)
		if source == "" {
			t.Fatalf("n%d asks the registry", i)
		}
		if children[source]++; children[source] > fanOut {
			t.Fatalf("%s serves %d", source, children[source])
		}
	}
	// Once it has all, it serves more.
	tr.has(anImage, "n0")
	if source := tr.begin(anImage, "late", nil); source != "n0" {
		t.Errorf("the source is %q instead of the one that has all", source)
	}
}

func TestASourceThatFails(t *testing.T) {
	tr := newTracker()
	tr.has(anImage, "a")
	tr.has(anImage, "b")
	for _, node := range []string{"x", "y"} {
		if source := tr.begin(anImage, node, []string{"a"}); source != "b" {
			t.Errorf("the source of %s is %q", node, source)
		}
	}
	// Two nodes say that a fails: it is not offered to a third.
	for i := range wholeFanOut - 2 {
		if source := tr.begin(anImage, fmt.Sprint("z", i), nil); source != "b" {
			t.Errorf("the source is %q", source)
		}
	}
	// One that speaks again is.
	tr.has(anImage, "a")
	if source := tr.begin(anImage, "w", nil); source != "a" {
		t.Errorf("the source is %q", source)
	}
	tr.drop(anImage, "a")
	if source := tr.begin(anImage, "v", nil); source == "a" {
		t.Error("a node that dropped the image is a source")
	}
}

func TestATrackerForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newTracker()
		tr.has(anImage, "a")
		time.Sleep(forgotten + time.Second) // of virtual time, like the next one
		if source := tr.begin(anImage, "b", nil); source != "" {
			t.Errorf("%q was not heard of for long", source)
		}
		for i := range maxImages + 10 {
			tr.has(fmt.Sprintf("sha256:%064x", i), "a")
			time.Sleep(time.Millisecond)
		}
		if n := len(tr.images); n > maxImages {
			t.Errorf("%d images are kept", n)
		}
		if _, ok := tr.images[fmt.Sprintf("sha256:%064x", maxImages+9)]; !ok {
			t.Error("the newest image is not kept")
		}
		for i := range maxHolders + 10 {
			tr.begin(anImage, fmt.Sprint("n", i), nil)
		}
		if n := len(tr.images[anImage].holders); n > maxHolders {
			t.Errorf("%d holders are kept", n)
		}
	})
}

// Nodes that begin, fail, end and begin again never wait for each other in a circle, and never for themselves.
func TestNobodyWaitsForItself(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		tr := newTracker()
		for range 200 {
			node := fmt.Sprint("n", r.IntN(12))
			switch r.IntN(6) {
			case 0:
				tr.has(anImage, node)
			case 1:
				tr.drop(anImage, node)
			default:
				var failed []string
				for range r.IntN(3) {
					failed = append(failed, fmt.Sprint("n", r.IntN(12)))
				}
				if source := tr.begin(anImage, node, failed); source == node || slices.Contains(failed, source) {
					t.Fatalf("seed %d: the source of %s is %q, and %v failed", seed, node, source, failed)
				}
			}
			tracked := tr.images[anImage]
			if tracked == nil {
				continue
			}
			for _, h := range tracked.holders {
				if circle(tracked, h) {
					t.Fatalf("seed %d: %s waits for itself: %+v", seed, h.node, tracked.holders)
				}
			}
		}
	}
}

func circle(i *trackedImage, from holder) bool {
	h := from
	for range len(i.holders) + 1 {
		if h.whole || h.source == "" {
			return false
		}
		at := slices.IndexFunc(i.holders, func(o holder) bool { return o.node == h.source })
		if at < 0 {
			return false
		}
		h = i.holders[at]
	}
	return true
}
