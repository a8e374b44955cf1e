package failpoint

import "testing"

func TestAPointActsWhileItIsArmed(t *testing.T) {
	hits := 0
	Hit("a")
	disarm := Arm("a", func() { hits++ })
	Hit("a")
	Hit("b")
	disarm()
	disarm()
	Hit("a")
	if hits != 1 || armed.Load() != 0 {
		t.Errorf("%d hits, %d points armed", hits, armed.Load())
	}
}
