package nodes

import (
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/internal/recent"
)

var encoder = protobuf.NewSerializer(registry.Scheme, registry.Scheme)

// maxEncodings limits a generation of the shared encodings, in bytes.
const maxEncodings = 2 << 20

// encodings encodes objects for workers, and keeps the encodings of what all workers get, so that a change costs one encoding. It is safe
// for concurrent use.
type encodings struct {
	shared recent.Cache[encodingKey, []byte]
}

type encodingKey struct {
	key      key
	revision uint64
}

func newEncodings() *encodings {
	return &encodings{recent.Cache[encodingKey, []byte]{Limit: maxEncodings}}
}

// encode returns the encoding of an object at a revision, which is read-only. own says that the object is the worker's own node, which
// other workers do not get as a whole.
func (e *encodings) encode(k key, revision uint64, own bool, obj client.Object) ([]byte, error) {
	switch k.resource {
	case "services", "endpointslices", "clustertrustbundles":
	case "nodes":
		if own {
			return runtime.Encode(encoder, obj)
		}
	default:
		return runtime.Encode(encoder, obj)
	}
	id := encodingKey{k, revision}
	if value, ok := e.shared.Get(id); ok {
		return value, nil
	}
	value, err := runtime.Encode(encoder, obj)
	if err == nil {
		e.shared.Put(id, value, len(value))
	}
	return value, err
}
