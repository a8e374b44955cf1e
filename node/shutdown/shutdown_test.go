package shutdown

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func TestPeriods(t *testing.T) {
	s := time.Second
	for name, c := range map[string]struct {
		total, critical time.Duration
		by              map[string]string
		want            string
	}{
		"none":              {0, 0, nil, "[]"},
		"all alike":         {30 * s, 0, nil, "[{0 30s} {2000000000 0s}]"},
		"critical ones":     {30 * s, 10 * s, nil, "[{0 20s} {2000000000 10s}]"},
		"by priority":       {0, 0, map[string]string{"100000": "10s", "0": "60s", "-5": "1s"}, "[{-5 1s} {0 1m0s} {100000 10s}]"},
		"too many critical": {10 * s, 11 * s, nil, "shutdown-grace-period-critical-pods: 11s is more"},
		"negative":          {-s, 0, nil, "must not be negative"},
		"too short":         {time.Millisecond, 0, nil, "at least one second"},
		"both":              {s, 0, map[string]string{"0": "1s"}, "must not be set together"},
		"no priority":       {0, 0, map[string]string{"x": "1s"}, `"x" is not a priority`},
		"a large priority":  {0, 0, map[string]string{"2147483648": "1s"}, `"2147483648" is not a priority`},
		"no duration":       {0, 0, map[string]string{"0": "10"}, `"10" is not a duration`},
		"twice":             {0, 0, map[string]string{"1": "1s", "01": "2s"}, "priority 1 is set twice"},
	} {
		p, err := Periods(c.total, c.critical, c.by)
		got := fmt.Sprint(p)
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, c.want) {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

// bed is a machine with a fake logind and pods that take their time, for use in a bubble.
type bed struct {
	mu      sync.Mutex
	began   time.Time
	log     []string     // what happened, and after how many seconds
	held    atomic.Int32 // locks
	delay   time.Duration
	set     time.Duration
	fail    error
	events  chan bool
	ongoing bool // what logind says of a shutdown
	takes   map[types.UID]time.Duration
	pods    []*corev1.Pod
	manager *Manager
}

func (b *bed) note(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.log = append(b.log, fmt.Sprintf("%d: ", int(time.Since(b.began).Seconds()))+fmt.Sprintf(format, args...))
}

func (b *bed) Active() []*corev1.Pod { return b.pods }

func (b *bed) End(uid types.UID, grace time.Duration) <-chan struct{} {
	b.note("end %s within %s", uid, grace)
	done := make(chan struct{})
	time.AfterFunc(b.takes[uid], func() { close(done) })
	return done
}

func (b *bed) Delay(context.Context) (time.Duration, error) { return b.delay, nil }
func (b *bed) SetDelay(_ context.Context, d time.Duration) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.set = d
	return b.fail
}
func (b *bed) Watch(context.Context) (<-chan bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.events, nil
}
func (b *bed) Close() error { return nil }
func (b *bed) Preparing(context.Context) (bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ongoing, nil
}
func (b *bed) Inhibit(context.Context) (io.Closer, error) {
	b.held.Add(1)
	return &held{b: b}, nil
}

type held struct {
	b    *bed
	once sync.Once
}

func (h *held) Close() error {
	h.once.Do(func() {
		h.b.held.Add(-1)
		h.b.note("released")
	})
	return nil
}

// bubble runs a test in virtual time, with four pods of different priorities.
func bubble(t *testing.T, test func(t *testing.T, b *bed)) {
	synctest.Test(t, func(t *testing.T) {
		b := &bed{events: make(chan bool), delay: 5 * time.Second, takes: map[types.UID]time.Duration{}}
		for name, priority := range map[string]int32{"low": -10, "normal": 0, "high": 1000, "critical": critical + 1000} {
			b.pods = append(b.pods, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}, Spec: corev1.PodSpec{Priority: &priority}})
		}
		slices.SortFunc(b.pods, func(x, y *corev1.Pod) int { return strings.Compare(x.Name, y.Name) })
		b.manager = New(Config{Periods: []Period{{0, 20 * time.Second}, {1000, 10 * time.Second}, {critical, 10 * time.Second}}, Pods: b,
			Connect: func(context.Context) (Logind, error) { return b, nil }, Changed: func(began bool) { b.note("shutdown: %v", began) }})
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- b.manager.Run(ctx) }()
		synctest.Wait()
		b.began = time.Now()
		test(t, b)
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
		if b.held.Load() != 0 {
			t.Errorf("%d locks are left", b.held.Load())
		}
	})
}

func (b *bed) happened(t *testing.T, want ...string) {
	t.Helper()
	synctest.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	slices.SortStableFunc(b.log, func(x, y string) int { // pods of one group begin to end in any order
		if strings.Contains(x, ": end ") && strings.Contains(y, ": end ") && x[:strings.Index(x, ":")] == y[:strings.Index(y, ":")] {
			return strings.Compare(x, y)
		}
		return 0
	})
	if !slices.Equal(b.log, want) {
		t.Errorf("happened:\n\t%s\nwant:\n\t%s", strings.Join(b.log, "\n\t"), strings.Join(want, "\n\t"))
	}
}

func TestPodsEndInOrderOfPriority(t *testing.T) {
	bubble(t, func(t *testing.T, b *bed) {
		if b.set != 40*time.Second || b.held.Load() != 1 || b.manager.Now() {
			t.Errorf("logind's delay is set to %s, %d locks, shutting down %v", b.set, b.held.Load(), b.manager.Now())
		}
		b.takes["low"], b.takes["normal"], b.takes["high"], b.takes["critical"] = 3*time.Second, 5*time.Second, time.Hour, time.Second
		b.events <- true
		time.Sleep(time.Minute)
		// The first group is done after 5 s; the second is not waited for longer than its period.
		b.happened(t, "0: shutdown: true", "0: end low within 20s", "0: end normal within 20s", "5: end high within 10s", "15: end critical within 10s", "16: released")
		if !b.manager.Now() {
			t.Error("the machine is not shutting down any more")
		}
	})
}

func TestAGroupWithoutPodsTakesNoTime(t *testing.T) {
	bubble(t, func(t *testing.T, b *bed) {
		b.pods = slices.DeleteFunc(b.pods, func(p *corev1.Pod) bool { return p.Name != "critical" })
		b.events <- true
		b.happened(t, "0: shutdown: true", "0: end critical within 10s", "0: released")
	})
}

func TestAShutdownThatIsCancelled(t *testing.T) {
	bubble(t, func(t *testing.T, b *bed) {
		b.takes["low"] = time.Hour
		b.events <- true
		time.Sleep(2 * time.Second) // of virtual time: every test here runs in a bubble
		b.events <- false
		synctest.Wait()
		if b.manager.Now() || b.held.Load() != 1 {
			t.Errorf("shutting down %v, %d locks", b.manager.Now(), b.held.Load())
		}
		time.Sleep(time.Minute)
		b.happened(t, "0: shutdown: true", "0: end low within 20s", "0: end normal within 20s", "2: shutdown: false", "2: released")
		// The next one is waited for like the first.
		b.log, b.began, b.pods = nil, time.Now(), nil
		b.events <- true
		b.happened(t, "0: shutdown: true", "0: released")
	})
}

func TestLogindThatComesAndGoes(t *testing.T) {
	bubble(t, func(t *testing.T, b *bed) {
		b.mu.Lock()
		b.fail = errors.New("no systemd")
		close(b.events)
		b.mu.Unlock()
		time.Sleep(time.Minute)
		if b.held.Load() != 0 {
			t.Errorf("%d locks are held though logind does not wait long enough", b.held.Load())
		}
		b.mu.Lock()
		b.fail, b.events = nil, make(chan bool)
		b.mu.Unlock()
		time.Sleep(reconnect + time.Second)
		synctest.Wait()
		if b.held.Load() != 1 {
			t.Errorf("%d locks after logind has come back", b.held.Load())
		}
	})
}

func TestAShutdownThatIsCancelledWhileThereIsNoConnection(t *testing.T) {
	for _, ongoing := range []bool{false, true} {
		bubble(t, func(t *testing.T, b *bed) {
			b.pods = nil
			b.events <- true
			synctest.Wait()
			b.mu.Lock()
			close(b.events)
			b.events, b.ongoing = make(chan bool), ongoing
			b.mu.Unlock()
			time.Sleep(reconnect + time.Second) // of virtual time
			synctest.Wait()
			if b.manager.Now() != ongoing {
				t.Errorf("shutting down %v, logind says %v", b.manager.Now(), ongoing)
			}
			if b.held.Load() != 1 {
				t.Errorf("%d locks", b.held.Load())
			}
		})
	}
}
