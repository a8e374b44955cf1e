package dev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// dialTime is how long a host may take to accept a connection before the next one is tried: all hosts are on this machine.
const dialTime = 400 * time.Millisecond

// forwarder forwards connections from this machine to the first of some hosts that accepts, beginning with the one that accepted
// last.
type forwarder struct {
	namespace string
	targets   []netip.AddrPort
	last      atomic.Int64
	log       *slog.Logger
}

// run accepts connections until the context ends, and returns when all are closed.
func (f *forwarder) run(ctx context.Context, listener net.Listener) error {
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	defer stop()
	var connections sync.WaitGroup
	defer connections.Wait()
	for {
		conn, err := listener.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("forwarder: %w", err)
		}
		connections.Go(func() { f.serve(ctx, conn) })
	}
}

func (f *forwarder) serve(ctx context.Context, client net.Conn) {
	defer client.Close()
	target, err := f.dial()
	if err != nil {
		f.log.Debug("no host answers", "error", err)
		return
	}
	defer target.Close()
	stop := context.AfterFunc(ctx, func() {
		client.Close()
		target.Close()
	})
	defer stop()
	var both sync.WaitGroup
	pass := func(to, from net.Conn) {
		io.Copy(to, from) // ends with either side
		if half, ok := to.(interface{ CloseWrite() error }); ok {
			half.CloseWrite()
		}
	}
	both.Go(func() { pass(target, client) })
	both.Go(func() { pass(client, target) })
	both.Wait()
}

func (f *forwarder) dial() (net.Conn, error) {
	begin := int(f.last.Load())
	var errs []error
	for i := range f.targets {
		n := (begin + i) % len(f.targets)
		var conn net.Conn
		err := within(f.namespace, func() (err error) {
			conn, err = net.DialTimeout("tcp", f.targets[n].String(), dialTime)
			return err
		})
		if err == nil {
			f.last.Store(int64(n))
			return conn, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// publication is a port of this machine that is forwarded to a port of the workers (a node port): "8080:30080".
type publication struct{ local, remote int }

func parsePublication(text string) (p publication, err error) {
	var local, remote string
	for i := range text {
		if text[i] == ':' {
			local, remote = text[:i], text[i+1:]
		}
	}
	if p.local, err = strconv.Atoi(local); err == nil {
		p.remote, err = strconv.Atoi(remote)
	}
	if err != nil || p.local < 1 || p.local > 65535 || p.remote < 1 || p.remote > 65535 {
		return p, fmt.Errorf("--publish: %q must be LOCAL:NODEPORT, such as 8080:30080", text)
	}
	return p, nil
}
