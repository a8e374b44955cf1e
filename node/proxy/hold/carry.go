package hold

import (
	"context"
	"io"
	"net"
	"sync"
)

// carry copies between two connections in both directions until both directions have ended or ctx does, and closes both. The end of one
// direction is passed on; an error in one ends both, so that neither side waits for what will not come.
func carry(ctx context.Context, a, b *net.TCPConn) {
	defer context.AfterFunc(ctx, func() {
		reset(a)
		reset(b)
	})()
	var both sync.WaitGroup
	pass := func(to, from *net.TCPConn) {
		if _, err := io.Copy(to, from); err != nil {
			reset(to)
			reset(from)
			return
		}
		to.CloseWrite()
	}
	both.Go(func() { pass(a, b) })
	both.Go(func() { pass(b, a) })
	both.Wait()
	a.Close()
	b.Close()
}
