package rest

import (
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/kontiki/kontiki/api/measure"
	"github.com/kontiki/kontiki/api/objects"
)

// watch sends changes until its time is over, the client disconnects, or the watch falls behind the history.
func (c *call) watch() error {
	accept, err := c.negotiate()
	if err != nil {
		return err
	}
	if accept.encoding == objects.YAML {
		return apierrors.NewGenericServerResponse(http.StatusNotAcceptable, "watch", c.kind.GroupResource(), "", "a watch is streamed as JSON or protobuf, not as YAML", 0, true)
	}
	raw, list, err := c.listOptions()
	if err != nil {
		return err
	}
	lifetime := objects.MinWatch + rand.N(objects.MinWatch)
	if raw.TimeoutSeconds != nil && *raw.TimeoutSeconds > 0 {
		lifetime = time.Duration(*raw.TimeoutSeconds) * time.Second
	}
	ctx, cancel := context.WithTimeout(c.r.Context(), lifetime)
	defer cancel()
	request := c.request("", nil)
	if c.target.name != "" {
		list.Fields = objects.NameSelector(list.Fields, c.target.name)
		request.Name = ""
	}
	stream := &eventStream{call: c, accept: accept, counted: c.Metrics.Watch(c.kind.Group, c.kind.Version, c.kind.Resource)}
	// As in upstream, only watches that begin with the present objects are compressed.
	stream.compress = raw.SendInitialEvents != nil && *raw.SendInitialEvents && acceptsGzip(c.r)
	if accept.as == asTable {
		if stream.table, err = c.tableOptions(); err != nil {
			return err
		}
	}
	w, err := c.Objects.Watch(ctx, request, objects.WatchOptions{
		Labels: list.Labels, Fields: list.Fields, ResourceVersion: list.ResourceVersion,
		SendInitialEvents: raw.SendInitialEvents, Bookmarks: raw.AllowWatchBookmarks,
	})
	if apierrors.IsResourceExpired(err) {
		// Upstream reports this within the stream, and clients expect it there.
		stream.begin()
		stream.fail(err)
		return nil
	}
	if err != nil {
		return err
	}
	defer w.Close()
	a := &c.asked
	defer c.Limits.Watching(a.APIGroup, a.Resource, a.Namespace, a.Name)()
	stream.begin()
	for initial := w.Initial(); ; initial = false {
		if !initial {
			c.seat.Swap(nil).Leave()
		}
		events, err := w.Next(ctx)
		if err != nil {
			if ctx.Err() == nil && !errors.Is(err, objects.ErrKindReplaced) {
				stream.fail(err)
			}
			return nil
		}
		for _, event := range events {
			if err := stream.send(event); err != nil {
				return nil // the client has disconnected
			}
		}
		if err := stream.flush(); err != nil {
			return nil
		}
	}
}

// eventStream writes watch events. JSON events follow each other, one per line; protobuf events are framed by a 4-byte big-endian
// length (k8s.io/apimachinery/pkg/runtime/serializer/protobuf LengthDelimitedFramer).
type eventStream struct {
	*call
	accept  accepted
	control *http.ResponseController
	table   *metav1.TableOptions
	counted *measure.Watch
	buf     []byte
	// compress makes each part that is flushed a gzip member of its own, so that clients can decompress it at once, and a watch that
	// waits for events has no compressor.
	compress bool
}

func (s *eventStream) begin() {
	contentType := typeJSON
	if s.accept.encoding == objects.Protobuf {
		contentType = typeProtobuf + ";stream=watch"
	}
	s.beginBody(contentType, http.StatusOK, s.compress)
	s.control = http.NewResponseController(s.w)
	s.answer.watch()
	s.control.Flush()
}

func (s *eventStream) flush() error {
	if len(s.buf) > 0 {
		if err := s.write(); err != nil {
			return err
		}
		s.buf = s.buf[:0]
	}
	return s.control.Flush()
}

func (s *eventStream) write() error {
	if !s.compress {
		_, err := s.w.Write(s.buf)
		return err
	}
	zip := gzipWriters.Get().(*gzip.Writer)
	defer gzipWriters.Put(zip)
	zip.Reset(s.w)
	if _, err := zip.Write(s.buf); err != nil {
		return err
	}
	// Go's decompressor returns the last block of a member only when the next member has begun: end the member with an empty block.
	if err := zip.Flush(); err != nil {
		return err
	}
	return zip.Close()
}

// maxBuffered limits the bytes that a stream collects before it writes.
const maxBuffered = 256 << 10

func (s *eventStream) send(event objects.WatchEvent) error {
	object, err := s.object(event)
	if err != nil {
		s.Log.Error("watch event could not be encoded", "kind", s.kind.Kind, "error", err)
		return err
	}
	s.append(string(event.Type), object)
	s.counted.Sent(len(object))
	if len(s.buf) >= maxBuffered {
		return s.flush()
	}
	return nil
}

func (s *eventStream) append(eventType string, object []byte) {
	if s.accept.encoding != objects.Protobuf {
		s.buf = append(s.buf, `{"type":"`...)
		s.buf = append(s.buf, eventType...)
		s.buf = append(s.buf, `","object":`...)
		s.buf = append(s.buf, object...)
		s.buf = append(s.buf, "}\n"...)
		return
	}
	// metav1.WatchEvent: type = 1, object = 2 (RawExtension: raw = 1). The frame's length comes first: its place is filled in afterwards.
	frame := len(s.buf)
	s.buf = append(s.buf, 0, 0, 0, 0)
	s.buf = appendTag(s.buf, 1, len(eventType))
	s.buf = append(s.buf, eventType...)
	s.buf = appendTag(s.buf, 2, 1+varintSize(len(object))+len(object))
	s.buf = appendTag(s.buf, 1, len(object))
	s.buf = append(s.buf, object...)
	binary.BigEndian.PutUint32(s.buf[frame:], uint32(len(s.buf)-frame-4))
}

// appendTag appends the tag and the length of a length-delimited field.
func appendTag(b []byte, number, length int) []byte {
	return binary.AppendUvarint(append(b, byte(number<<3|2)), uint64(length))
}

func varintSize(n int) int { return max(1, (bits.Len(uint(n))+6)/7) }

// object encodes the object of an event.
func (s *eventStream) object(event objects.WatchEvent) ([]byte, error) {
	if event.Type == watch.Bookmark {
		return s.bookmark(event)
	}
	switch s.accept.as {
	case asMetadata:
		m, err := s.Objects.Metadata(s.kind, event.Version)
		if err != nil {
			return nil, err
		}
		return s.accept.encode(metadataOf(m))
	case asTable:
		p, err := s.Objects.Printable(s.kind, event.Version)
		if err != nil {
			return nil, err
		}
		table, err := s.tables.of(s.kind, p, s.table)
		if err != nil {
			return nil, err
		}
		s.table.NoHeaders = true // columns are sent only once
		return s.accept.encode(table)
	}
	if s.accept.encoding == objects.Protobuf {
		return s.Objects.Enveloped(s.kind, event.Version)
	}
	return s.Objects.JSON(s.kind, event.Version)
}

// bookmark returns an object of the kind with only a resourceVersion.
func (s *eventStream) bookmark(event objects.WatchEvent) ([]byte, error) {
	obj := s.kind.New()
	obj.GetObjectKind().SetGroupVersionKind(s.kind.GVK())
	obj.SetResourceVersion(objects.FormatRevision(event.Revision))
	if event.InitialEnd {
		obj.SetAnnotations(map[string]string{objects.InitialEventsAnnotation: "true"})
	}
	switch s.accept.as {
	case asMetadata:
		return s.accept.encode(metadataOf(obj))
	case asTable:
		return s.accept.encode(&metav1.Table{
			TypeMeta: metav1.TypeMeta{Kind: "Table", APIVersion: "meta.k8s.io/v1"}, ListMeta: metav1.ListMeta{ResourceVersion: obj.GetResourceVersion()},
			Rows: []metav1.TableRow{{Object: runtime.RawExtension{Object: metadataOf(obj)}}},
		})
	}
	return encodeObject(s.accept.encoding, obj)
}

// fail ends the stream with an ERROR event.
func (s *eventStream) fail(err error) {
	body, encodeErr := encodeObject(s.accept.encoding, objects.StatusOf(err))
	if encodeErr != nil {
		s.Log.Error("watch error could not be encoded", "error", fmt.Errorf("%w (%w)", encodeErr, err))
		return
	}
	s.append(string(watch.Error), body)
	s.flush() // an error means that the client has disconnected
}
