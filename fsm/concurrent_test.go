package fsm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/kontiki/kontiki/internal/kv"
)

// TestReadersBesideWriter runs every kind of reader concurrently with a writer that sometimes restores. Each command writes the
// same value to three distant keys, so that a view or a snapshot with half a command is detected.
func TestReadersBesideWriter(t *testing.T) {
	l, do := local(t, Options{HistoryEvents: 50, FormBytes: 4 << 10})
	keys := [3]string{"/a/a/a/a", "/m/m/m/m", "/z/z/z/z"}
	write := func(i int) {
		value := fmt.Appendf(nil, "value-%d", i)
		ops := []kv.Op{{Key: keys[0], Value: value}, {Key: keys[1], Value: value}, {Key: keys[2], Value: value}}
		for n := range 20 {
			ops = append(ops, kv.Op{Key: fmt.Sprintf("/f/f/f/%d", (i*7+n)%900), Value: value})
		}
		do(ops...)
	}
	write(0)
	var stop atomic.Bool
	var wg sync.WaitGroup
	reader := func(name string, read func() error) {
		wg.Go(func() {
			for n := 0; !stop.Load() || n == 0; n++ {
				if err := read(); err != nil {
					t.Errorf("%s: %v", name, err)
					return
				}
			}
		})
	}
	whole := func(v kv.View) error {
		var got [3]string
		for i, k := range keys {
			o, ok := v.Get(k)
			if !ok {
				return fmt.Errorf("%s is absent at %d", k, v.Revision())
			}
			got[i] = string(o.Value)
		}
		if got[0] != got[1] || got[1] != got[2] {
			return fmt.Errorf("a view at %d shows half a command: %q", v.Revision(), got)
		}
		n := 0
		v.Range("", "", func(*kv.Version) bool { n++; return true })
		if c := v.Count("", ""); c != n {
			return fmt.Errorf("counted %d of %d", c, n)
		}
		return nil
	}
	reader("view", func() error { return whole(l.View()) })
	reader("forms", func() error {
		var err error
		l.View().Range("/f/", "/g/", func(v *kv.Version) bool {
			var got any
			got, err = v.Form(1, func(v *kv.Version) (any, int, error) { return string(v.Value), len(v.Value), nil })
			if err == nil && got != string(v.Value) {
				err = fmt.Errorf("the form of %s is %v", v.Key, got)
			}
			return err == nil
		})
		return err
	})
	reader("snapshot", func() error {
		s := l.Snapshot()
		if err := whole(s.View()); err != nil {
			return err
		}
		_, err := s.WriteTo(io.Discard)
		return err
	})
	reader("watch", func() error {
		w, err := l.Watch("/", l.View().Revision())
		if errors.Is(err, kv.ErrCompacted) || errors.Is(err, kv.ErrFutureRevision) {
			return nil // a restore or much writing came between
		}
		if err != nil {
			return err
		}
		defer w.Close()
		events, progress, err := w.Next(ended)
		if errors.Is(err, kv.ErrCompacted) || err == context.Canceled {
			return nil
		}
		if len(events)%23 != 0 || w.Progress() < progress {
			return fmt.Errorf("%d events, progress %d and then %d", len(events), progress, w.Progress())
		}
		return err
	})
	reader("stats", func() error {
		if st := l.Stats(); st.HistoryEvents > 50 || st.FormBytes > 4<<10 {
			return fmt.Errorf("over the bounds: %+v", st)
		}
		return l.WaitIndex(context.Background(), 1)
	})
	var kept bytes.Buffer
	for i := range 400 {
		write(i)
		switch i % 40 {
		case 10:
			kept.Reset()
			if _, err := l.Snapshot().WriteTo(&kept); err != nil {
				t.Fatal(err)
			}
		case 30:
			if err := l.Restore(bytes.NewReader(kept.Bytes())); err != nil {
				t.Fatal(err)
			}
		}
	}
	stop.Store(true)
	wg.Wait()
	checkTree(t, l.current.Load().root)
}
