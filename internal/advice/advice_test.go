package advice

import (
	"math"
	"testing"
	"time"
)

var start = time.Date(2026, 8, 1, 0, 0, 0, 0, time.UTC)

// near says whether a value is at most a bucket (5 percent) and the margin above what it stands for.
func near(got, value float64) bool { return got >= value*margin*0.999 && got <= value*margin*1.12 }

func TestPercentilesOfProcessors(t *testing.T) {
	var u Usage
	for i := range 1000 {
		cores := 0.1
		if i%100 >= 80 { // a fifth of the time
			cores = 0.5
		}
		u.Add(start.Add(time.Duration(i)*time.Minute), cores, 64<<20, 0.2)
	}
	b := u.CPU()
	if !near(b.Target, 0.5) || !near(b.Lower, 0.1) || !near(b.Upper, 0.5) {
		t.Errorf("%+v", b)
	}
	if m := u.Memory(); !near(m.Target, 64<<20) || u.Samples != 1000 || u.MostCores != 0.5 {
		t.Errorf("memory %+v, %d samples", m, u.Samples)
	}
	for i := range 7 * 24 * 60 { // a week later the load is gone
		u.Add(start.Add(1000*time.Minute+time.Duration(i)*time.Minute), 0.02, 1<<20, 0.2)
	}
	if b := u.CPU(); !near(b.Target, 0.02) {
		t.Errorf("after a week: %+v", b)
	}
}

// Memory is about peaks: one minute of much use counts as the day.
func TestPeaksOfMemory(t *testing.T) {
	var u Usage
	for i := range 600 {
		bytes := float64(50 << 20)
		if i == 300 {
			bytes = 900 << 20
		}
		u.Add(start.Add(time.Duration(i)*time.Minute), 0.1, bytes, 0.1)
	}
	if b := u.Memory(); !near(b.Target, 900<<20) || !near(b.Lower, 900<<20) {
		t.Errorf("%+v", b)
	}
	u.OutOfMemory(start.Add(601*time.Minute), 1<<30)
	if b := u.Memory(); !near(b.Target, 1.2*(1<<30)) {
		t.Errorf("after it was out of memory: %+v", b)
	}
	var small Usage
	small.OutOfMemory(start, 1<<30)
	if small.Memory() != (Bounds{}) {
		t.Error("advice without samples")
	}
	small.Add(start, 0, 1, 0)
	if c, m := small.CPU(), small.Memory(); c.Target < LeastCores || m.Target < LeastBytes {
		t.Errorf("%+v %+v", c, m)
	}
}

// What no container can use makes no advice without bounds, and needs no memory without bounds.
func TestStrangeSamples(t *testing.T) {
	var u Usage
	for i, value := range []float64{math.Inf(1), math.NaN(), -1, 1e300, 0} {
		u.Add(start.Add(time.Duration(i)*200*halfLife), value, value, value)
	}
	if len(u.cpu.weights) > mostBuckets || len(u.memory.weights) > mostBuckets {
		t.Errorf("%d and %d buckets", len(u.cpu.weights), len(u.memory.weights))
	}
	if b := u.CPU(); math.IsNaN(b.Target) || math.IsInf(b.Target, 0) {
		t.Errorf("%+v", b)
	}
}
