package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
)

// watch measures the delivery of events to all watchers: as fast as the clients can create pods, and then at a given pace, for the
// latency. Watchers separate the events from each other but do not decode them, so that the servers are measured, not the watchers.
func (r *runner) watch(ctx context.Context, sets []*kubernetes.Clientset) error {
	names := r.names("watched", r.events+r.paced)
	f, err := r.startWatchers(ctx, len(names))
	if err != nil {
		return err
	}
	defer f.stop()
	if err := r.during(ctx, "watch: events", r.events*r.watchers, func() ([]time.Duration, error) {
		if _, err := share(ctx, sets, names[:r.events], f.sending(r.target.create)); err != nil {
			return nil, err
		}
		return f.received(ctx, 0, r.events)
	}); err != nil {
		return err
	}
	if err := r.during(ctx, "watch: paced events", r.paced*r.watchers, func() ([]time.Duration, error) {
		tick := time.NewTicker(time.Second / time.Duration(r.pace))
		defer tick.Stop()
		for i, name := range names[r.events:] {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			if err := f.sending(r.target.create)(ctx, sets[i%len(sets)], name); err != nil {
				return nil, err
			}
		}
		return f.received(ctx, r.events, len(names))
	}); err != nil {
		return err
	}
	f.stop()
	_, err = share(ctx, sets, names, r.target.remove)
	return err
}

// fanOut is the watchers. Event i is the creation of the pod whose name ends with i.
type fanOut struct {
	begin  time.Time
	marker []byte // what a name begins with
	sent   []atomic.Int64
	// took[w][i] is when watcher w received event i, after begin; it is read when left[i] is 0.
	took   [][]time.Duration
	left   []atomic.Int64
	arrive chan struct{} // receives when left[i] becomes 0
	failed chan error
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

func (r *runner) startWatchers(ctx context.Context, events int) (*fanOut, error) {
	sets, err := r.connect(r.watchers, nil)
	if err != nil {
		return nil, err
	}
	body, err := sets[0].CoreV1().RESTClient().Get().AbsPath(r.target.path).Param("limit", "1").SetHeader("Accept", "application/json").DoRaw(ctx)
	if err != nil {
		return nil, err
	}
	var list metav1.PartialObjectMetadataList
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, err
	}
	f := &fanOut{begin: time.Now(), marker: []byte(r.encoding + "-watched-"), sent: make([]atomic.Int64, events), left: make([]atomic.Int64, events),
		arrive: make(chan struct{}, events), failed: make(chan error, r.watchers)}
	for i := range f.left {
		f.left[i].Store(int64(r.watchers))
	}
	ctx, f.cancel = context.WithCancel(ctx)
	for _, set := range sets {
		body, err := set.CoreV1().RESTClient().Get().AbsPath(r.target.path).
			VersionedParams(&metav1.ListOptions{Watch: true, ResourceVersion: list.ResourceVersion}, scheme.ParameterCodec).Stream(ctx)
		if err != nil {
			f.stop()
			return nil, err
		}
		took := make([]time.Duration, events)
		f.took = append(f.took, took)
		f.wg.Go(func() {
			defer body.Close()
			err := f.read(bufio.NewReaderSize(body, 64<<10), took, r.encoding == "protobuf")
			if ctx.Err() == nil {
				f.failed <- fmt.Errorf("a watcher: %w", err)
			}
		})
	}
	return f, nil
}

func (f *fanOut) stop() {
	f.cancel()
	f.wg.Wait()
}

// sending notes when the request for a name begins.
func (f *fanOut) sending(request func(context.Context, *kubernetes.Clientset, string) error) func(context.Context, *kubernetes.Clientset, string) error {
	return func(ctx context.Context, set *kubernetes.Clientset, name string) error {
		i, err := strconv.Atoi(name[len(f.marker):])
		if err != nil {
			return err
		}
		f.sent[i].Store(int64(time.Since(f.begin)))
		return request(ctx, set, name)
	}
}

// received waits until every watcher has received the events from first to before last, and returns the time that each took.
func (f *fanOut) received(ctx context.Context, first, last int) ([]time.Duration, error) {
	for range last - first {
		select {
		case <-f.arrive:
		case err := <-f.failed:
			return nil, err
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(time.Minute):
			return nil, fmt.Errorf("watchers have received no event for a minute")
		}
	}
	var all []time.Duration
	for i := first; i < last; i++ {
		for _, took := range f.took {
			all = append(all, took[i]-time.Duration(f.sent[i].Load()))
		}
	}
	return all, nil
}

// read notes when each event arrives. It returns the error with which the stream ends.
func (f *fanOut) read(stream *bufio.Reader, took []time.Duration, protobuf bool) error {
	next := lines(stream)
	if protobuf {
		next = frames(stream)
	}
	for {
		frame, err := next()
		if err != nil {
			return err
		}
		at := bytes.Index(frame, f.marker)
		if at < 0 {
			continue // a bookmark, or another's pod
		}
		digits := frame[at+len(f.marker):]
		i, err := strconv.Atoi(string(digits[:min(6, len(digits))]))
		if err != nil || i >= len(took) {
			return fmt.Errorf("an event with the name %q", frame[at:min(at+40, len(frame))])
		}
		if took[i] == 0 { // later events of the same pod are its deletion
			took[i] = time.Since(f.begin)
			if f.left[i].Add(-1) == 0 {
				f.arrive <- struct{}{}
			}
		}
	}
}

// frames separates events in protobuf: each follows its length in four bytes.
func frames(stream *bufio.Reader) func() ([]byte, error) {
	var buffer []byte
	return func() ([]byte, error) {
		var length [4]byte
		if _, err := io.ReadFull(stream, length[:]); err != nil {
			return nil, err
		}
		n := int(binary.BigEndian.Uint32(length[:]))
		if n > 4<<20 {
			return nil, fmt.Errorf("an event of %d bytes", n)
		}
		if cap(buffer) < n {
			buffer = make([]byte, n)
		}
		buffer = buffer[:n]
		_, err := io.ReadFull(stream, buffer)
		return buffer, err
	}
}

// lines separates events in JSON: each is a line.
func lines(stream *bufio.Reader) func() ([]byte, error) {
	var long []byte
	return func() ([]byte, error) {
		line, err := stream.ReadSlice('\n')
		if err != bufio.ErrBufferFull {
			return line, err
		}
		long = long[:0]
		for err == bufio.ErrBufferFull {
			long = append(long, line...)
			line, err = stream.ReadSlice('\n')
		}
		long = append(long, line...)
		return long, err
	}
}
