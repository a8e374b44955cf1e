package server

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/node/podspec"
	"github.com/kontiki/kontiki/node/runtime"
)

// LogOptions selects the part of a log to read, and the format.
type LogOptions struct {
	Follow     bool
	Timestamps bool
	Tail       int64 // lines from the end; negative for all
	Limit      int64 // bytes of output; negative means no limit
	Since      time.Time
	Previous   bool
	Stdout     bool
	Stderr     bool
}

func parseLogOptions(q url.Values, now time.Time) (LogOptions, error) {
	o := LogOptions{Tail: -1, Limit: -1, Stdout: true, Stderr: true}
	flag := func(name string) (bool, error) {
		v := q.Get(name)
		if v == "" {
			return q.Has(name), nil
		}
		return strconv.ParseBool(v)
	}
	var errs []error
	set := func(to *bool, name string) {
		v, err := flag(name)
		errs = append(errs, err)
		*to = v
	}
	set(&o.Follow, "follow")
	set(&o.Timestamps, "timestamps")
	set(&o.Previous, "previous")
	number := func(name string) (int64, bool) {
		v := q.Get(name)
		if v == "" {
			return 0, false
		}
		n, err := strconv.ParseInt(v, 10, 64)
		if err == nil && n < 0 {
			err = fmt.Errorf("%s must not be negative", name)
		}
		errs = append(errs, err)
		return n, err == nil
	}
	if q.Get("tail") != "" && q.Get("tail") != "all" {
		q.Set("tailLines", q.Get("tail"))
	}
	if n, ok := number("tailLines"); ok {
		o.Tail = n
	}
	if n, ok := number("limitBytes"); ok {
		o.Limit = n
	}
	if n, ok := number("sinceSeconds"); ok {
		o.Since = now.Add(-time.Duration(n) * time.Second)
	}
	if v := q.Get("sinceTime"); v != "" {
		t, err := time.Parse(time.RFC3339, v)
		errs = append(errs, err)
		o.Since = t
	}
	switch v := q.Get("stream"); v {
	case "", corev1.LogStreamAll:
	case corev1.LogStreamStdout:
		o.Stderr = false
	case corev1.LogStreamStderr:
		o.Stdout = false
	default:
		errs = append(errs, fmt.Errorf("invalid stream type %q", v))
	}
	return o, errors.Join(errs...)
}

func (s *Server) logs(w http.ResponseWriter, r *http.Request) {
	pod, c := s.find(w, r)
	if pod == nil {
		return
	}
	o, err := parseLogOptions(r.URL.Query(), time.Now())
	if err != nil {
		http.Error(w, `{"message": "Unable to decode query: `+err.Error()+`"}`, http.StatusBadRequest)
		return
	}
	id, err := logContainer(pod, c.Name, o.Previous)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	info, err := s.c.Runtime.Container(r.Context(), id)
	if err != nil {
		http.Error(w, fmt.Sprintf("unable to retrieve container logs for containerd://%s", id), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	fw := flushWriter{w, http.NewResponseController(w)}
	if err := s.readLog(r.Context(), info, o, fw); err != nil && r.Context().Err() == nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

type flushWriter struct {
	w  io.Writer
	rc *http.ResponseController
}

func (f flushWriter) Write(b []byte) (int, error) {
	n, err := f.w.Write(b)
	if err == nil {
		_ = f.rc.Flush()
	}
	return n, err
}

// logContainer returns the id of the attempt whose log is requested; errors have the kubelet's text.
func logContainer(pod *corev1.Pod, name string, previous bool) (string, error) {
	st := podspec.ContainerStatus(&pod.Status, name)
	if st == nil {
		return "", fmt.Errorf("container %q in pod %q is not available", name, pod.Name)
	}
	last := ""
	if t := st.LastTerminationState.Terminated; t != nil {
		last = t.ContainerID
	}
	id := ""
	switch {
	case previous:
		if last == "" {
			return "", fmt.Errorf("previous terminated container %q in pod %q not found", name, pod.Name)
		}
		id = last
	case st.State.Running != nil:
		id = st.ContainerID
	case st.State.Terminated != nil:
		id = st.State.Terminated.ContainerID
		if id == "" {
			id = last
		}
		if id == "" {
			return "", fmt.Errorf("container %q in pod %q is terminated", name, pod.Name)
		}
	case last != "":
		id = last
	default:
		reason := ""
		if st.State.Waiting != nil {
			reason = st.State.Waiting.Reason
		}
		switch reason {
		case "":
			return "", fmt.Errorf("container %q in pod %q is waiting to start - no logs yet", name, pod.Name)
		case "ErrImagePull":
			reason = "image can't be pulled"
		case "ImagePullBackOff":
			reason = "trying and failing to pull image"
		}
		return "", fmt.Errorf("container %q in pod %q is waiting to start: %s", name, pod.Name, reason)
	}
	return strings.TrimPrefix(id, "containerd://"), nil
}

// readLog copies a log. With Follow it continues until the container has exited and all its output is copied.
func (s *Server) readLog(ctx context.Context, c runtime.Container, o LogOptions, w io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f, err := runtime.OpenLog(c.LogPath)
	if errors.Is(err, os.ErrNotExist) && !o.Follow {
		return nil // there is no output yet
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("failed to try resolving symlinks in path %q: %w", c.LogPath, err)
	}
	var watch *watcher
	var events <-chan runtime.Event
	if o.Follow {
		// Both watches begin before the first read, so that nothing is missed.
		events = s.c.Runtime.Events(ctx)
		if watch, err = newWatcher(filepath.Dir(c.LogPath)); err != nil {
			return err
		}
		defer watch.close()
		if f == nil {
			f, _ = runtime.OpenLog(c.LogPath)
		}
	}
	if f != nil && o.Tail >= 0 {
		if err := seekTail(f, o.Tail); err != nil {
			f.Close()
			return err
		}
	}
	l := &lineReader{o: o, w: w, left: o.Limit}
	defer func() {
		if f != nil {
			f.Close()
		}
	}()
	for {
		ended := !o.Follow
		if o.Follow { // checked before the read, so that everything written before the exit is read
			now, err := s.c.Runtime.Container(ctx, c.ID)
			ended = err != nil || now.State != runtime.StateRunning
		}
		if f != nil {
			if done, err := l.copy(f); done || err != nil {
				return err
			}
			if next := rotated(f, c.LogPath); next != nil {
				if done, err := l.copy(f); done || err != nil { // the last lines of the old file
					next.Close()
					return err
				}
				f.Close()
				f = next
				continue
			}
		} else if f, _ = runtime.OpenLog(c.LogPath); f != nil {
			continue
		}
		if ended {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-watch.ch:
		case _, ok := <-events:
			if !ok {
				return ctx.Err()
			}
		}
	}
}

// rotated opens the file that is now at path, or returns nil if that is still f.
func rotated(f *os.File, path string) *os.File {
	a, err := f.Stat()
	if err != nil {
		return nil
	}
	b, err := os.Lstat(path)
	if err != nil || os.SameFile(a, b) {
		return nil
	}
	next, err := runtime.OpenLog(path)
	if err != nil {
		return nil
	}
	return next
}

// seekTail sets f to the start of its last n lines.
func seekTail(f *os.File, n int64) error {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil || n == 0 {
		return err
	}
	const block = 32 << 10
	buf := make([]byte, block)
	var lines int64
	for pos := end; pos > 0; {
		size := min(block, pos)
		pos -= size
		if _, err := f.ReadAt(buf[:size], pos); err != nil && err != io.EOF {
			return err
		}
		for i := size - 1; i >= 0; i-- {
			if buf[i] != '\n' || pos+i == end-1 {
				continue
			}
			if lines++; lines == n {
				_, err := f.Seek(pos+i+1, io.SeekStart)
				return err
			}
		}
	}
	_, err = f.Seek(0, io.SeekStart)
	return err
}

// lineReader converts CRI lines to the client's format.
type lineReader struct {
	o       LogOptions
	w       io.Writer
	left    int64
	partial []byte // the beginning of a line that is not complete yet
	skip    bool   // skipping the rest of a line that is too long
	inLine  [3]bool
}

// maxLogLine is far longer than the lines that the logger writes: others may write to the file, and must not fill the memory.
const maxLogLine = 64 << 10

// copy copies the present content of the file. done means that the limit was reached.
func (l *lineReader) copy(f *os.File) (done bool, err error) {
	r := bufio.NewReaderSize(f, maxLogLine)
	var out bytes.Buffer
	flush := func() error {
		if out.Len() == 0 {
			return nil
		}
		_, err := l.w.Write(out.Bytes())
		out.Reset()
		return err
	}
	for {
		b, err := r.ReadSlice('\n')
		if len(l.partial)+len(b) > maxLogLine || err == bufio.ErrBufferFull {
			l.partial, l.skip = nil, true
		}
		if err == bufio.ErrBufferFull {
			continue
		}
		if err != nil {
			if !l.skip {
				l.partial = append(l.partial, b...)
			}
			if err == io.EOF {
				err = nil
			}
			return false, errors.Join(err, flush())
		}
		if l.skip { // the end of the skipped line
			l.skip = false
			continue
		}
		if len(l.partial) > 0 {
			b = append(l.partial, b...)
			l.partial = nil
		}
		text := l.line(b)
		if l.left >= 0 && int64(len(text)) >= l.left {
			out.Write(text[:l.left])
			return true, flush()
		}
		if l.left >= 0 {
			l.left -= int64(len(text))
		}
		out.Write(text)
		if out.Len() > 64<<10 {
			if err := flush(); err != nil {
				return false, err
			}
		}
	}
}

// line returns the output for one CRI line, empty if it is not wanted.
func (l *lineReader) line(b []byte) []byte {
	at, rest, ok1 := bytes.Cut(b, []byte(" "))
	stream, rest, ok2 := bytes.Cut(rest, []byte(" "))
	tag, text, ok3 := bytes.Cut(rest, []byte(" "))
	if !ok1 || !ok2 || !ok3 {
		return nil
	}
	which := 1
	if string(stream) == "stderr" {
		which = 2
	}
	if which == 1 && !l.o.Stdout || which == 2 && !l.o.Stderr {
		return nil
	}
	if !l.o.Since.IsZero() {
		t, err := time.Parse(time.RFC3339Nano, string(at))
		if err != nil || t.Before(l.o.Since) {
			return nil
		}
	}
	partial := string(tag) == "P"
	if partial {
		text = bytes.TrimSuffix(text, []byte("\n"))
	}
	if l.o.Timestamps && !l.inLine[which] {
		text = append(append(bytes.Clone(at), ' '), text...)
	}
	l.inLine[which] = partial
	return text
}

// watcher reports changes in a directory, by inotify.
type watcher struct {
	f  *os.File
	ch chan struct{}
}

func newWatcher(dir string) (*watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("inotify: %w", err)
	}
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_MODIFY|unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_DELETE_SELF); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("watch %s: %w", dir, err)
	}
	w := &watcher{f: os.NewFile(uintptr(fd), "inotify"), ch: make(chan struct{}, 1)}
	go func() {
		defer close(w.ch)
		buf := make([]byte, 4096)
		for {
			if _, err := w.f.Read(buf); err != nil {
				return
			}
			select {
			case w.ch <- struct{}{}:
			default:
			}
		}
	}()
	return w, nil
}

func (w *watcher) close() { w.f.Close() }
