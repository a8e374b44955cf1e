package top

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"
)

// logTail is how many lines before now are asked for.
const logTail = "1000"

// stream holds the lines of a log, or of several, that are not shown yet. It is safe for concurrent use.
type stream struct {
	changed chan<- struct{}

	mu    sync.Mutex
	lines []entry
	ended string
}

// entry is a clean line, with its time if lines of several logs are merged by it.
type entry struct {
	at   time.Time
	line string
}

// take moves what came to the text: in the order of time where lines have one.
func (s *stream) take(t *Text) {
	s.mu.Lock()
	defer s.mu.Unlock()
	slices.SortStableFunc(s.lines, func(a, b entry) int { return a.at.Compare(b.at) })
	for _, e := range s.lines {
		t.Append(e.line)
	}
	s.lines = nil
	t.End(s.ended)
}

func (s *stream) add(at time.Time, line string) {
	s.update(func() {
		if s.lines = append(s.lines, entry{at, line}); len(s.lines) > 2*maxLines {
			s.lines = append([]entry(nil), s.lines[len(s.lines)-maxLines:]...)
		}
	})
}

func (s *stream) update(change func()) {
	s.mu.Lock()
	change()
	s.mu.Unlock()
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// run reads a log until it or the context ends.
func (s *stream) run(ctx context.Context, request *rest.Request) {
	err := readLines(ctx, request, func(line string) { s.add(time.Time{}, line) })
	if ctx.Err() != nil {
		return
	}
	s.update(func() {
		s.ended = "(the log has ended)"
		if err != nil {
			s.ended = err.Error()
		}
	})
}

// readLines calls a function with each line of a log, clean, until the log or the context ends.
func readLines(ctx context.Context, request *rest.Request, line func(string)) error {
	body, err := request.Stream(ctx)
	if err != nil {
		return err
	}
	defer body.Close()
	reader := bufio.NewReaderSize(body, lineBytes)
	for within := false; ; {
		// A line that is longer than the buffer is shown up to there, and the rest of it is passed over.
		part, err := reader.ReadSlice('\n')
		if len(part) > 0 && !within {
			line(clean(string(part), lineBytes))
		}
		within = errors.Is(err, bufio.ErrBufferFull)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && !within:
			return err
		}
	}
}

// logRequest begins a request for a pod's log, and returns the pod's containers. An empty container means the default one.
func logRequest(ctx context.Context, client rest.Interface, query Query, r *Row, container string, previous bool) (*rest.Request, string, []string, error) {
	path, err := query.Kind.path(r.Namespace, r.Name)
	if err != nil {
		return nil, "", nil, err
	}
	var pod corev1.Pod
	err = fetchJSON(ctx, client.Get().AbsPath(path).SetHeader("Accept", "application/json"), textBytes, &pod)
	if err != nil && !apierrors.IsForbidden(err) { // who may read logs only, reads those of the default container
		return nil, "", nil, err
	}
	var all []string
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			all = append(all, list[i].Name)
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		all = append(all, pod.Spec.EphemeralContainers[i].Name)
	}
	if container == "" {
		container = pod.Annotations["kubectl.kubernetes.io/default-container"]
	}
	if container == "" && len(all) > 0 {
		container = all[0]
	}
	request := client.Get().AbsPath(path+"/log").SetHeader("Accept", "*/*").Param("tailLines", logTail).
		Param("follow", fmt.Sprint(!previous)).Param("previous", fmt.Sprint(previous))
	if container != "" {
		request = request.Param("container", container)
	}
	return request, container, all, nil
}
