package recent

import "testing"

func TestValuesInUseStayAndTheCacheIsBounded(t *testing.T) {
	c := Cache[int, string]{Limit: 100}
	c.Put(-1, "used", 10)
	for i := range 1000 {
		c.Put(i, "other", 10)
		if v, ok := c.Get(i); !ok || v != "other" {
			t.Fatalf("%d is not kept: %q", i, v)
		}
		if v, ok := c.Get(-1); !ok || v != "used" {
			t.Fatalf("after %d, a value in use is not kept: %q", i, v)
		}
		if n := c.Len(); n > 20 {
			t.Fatalf("%d values are kept", n)
		}
	}
	if _, ok := c.Get(3); ok {
		t.Error("a value that was not used is still kept")
	}
	c.Put(-2, "large", 101)
	if _, ok := c.Get(-2); ok {
		t.Error("a value above the limit is kept")
	}
	c.Put(999, "changed", 50)
	if v, _ := c.Get(999); v != "changed" {
		t.Errorf("the value is %q", v)
	}
}
