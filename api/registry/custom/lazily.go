package custom

import (
	"sync"

	"github.com/kontiki/kontiki/internal/contain"
)

// lazily makes a value on first use. A panic while it is made is an error of all who use it.
type lazily[T any] struct {
	once  sync.Once
	make  func() (T, error)
	value T
	err   error
}

func (l *lazily[T]) get() (T, error) {
	l.once.Do(func() {
		l.err = contain.Run(func() (err error) {
			l.value, err = l.make()
			return err
		})
	})
	return l.value, l.err
}
