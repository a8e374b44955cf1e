package await

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// given is a test that records its end.
type given struct {
	testing.TB
	fatal string
}

func (*given) Helper() {}

func (g *given) Fatalf(format string, args ...any) {
	g.fatal = fmt.Sprintf(format, args...)
	panic(g)
}

func TestThat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		begin := time.Now()
		That(t, "the third try", func() error {
			if tries++; tries < 3 {
				return errors.New("too early")
			}
			return nil
		})
		if tries != 3 || time.Since(begin) > time.Second {
			t.Errorf("%d tries in %v", tries, time.Since(begin))
		}
		g := &given{TB: t}
		func() {
			defer func() { _ = recover() }()
			That(g, "what never comes", func() error { return errors.New("not there") })
		}()
		if !strings.Contains(g.fatal, "what never comes: not there") {
			t.Errorf("the test ended with %q", g.fatal)
		}
	})
}
