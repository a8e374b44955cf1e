// Package wire encodes the Kubernetes objects that masters and workers exchange: Kubernetes protobuf in its "k8s\0" envelope.
package wire

import (
	"bytes"
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"
)

var magic = []byte("k8s\x00")

// Message is implemented by all generated Kubernetes types.
type Message interface {
	Marshal() ([]byte, error)
	Unmarshal([]byte) error
}

// Encode encodes an object.
func Encode(apiVersion, kind string, m Message) ([]byte, error) {
	raw, err := m.Marshal()
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", kind, err)
	}
	u := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: apiVersion, Kind: kind}, Raw: raw}
	b, err := u.Marshal()
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", kind, err)
	}
	return append(bytes.Clone(magic), b...), nil
}

// Decode decodes an object into m, whose type the caller knows from the resource.
func Decode(b []byte, m Message) error {
	rest, ok := bytes.CutPrefix(b, magic)
	if !ok {
		return fmt.Errorf("decode %T: not Kubernetes protobuf", m)
	}
	var u runtime.Unknown
	if err := u.Unmarshal(rest); err != nil {
		return fmt.Errorf("decode %T: %w", m, err)
	}
	if err := m.Unmarshal(u.Raw); err != nil {
		return fmt.Errorf("decode %T: %w", m, err)
	}
	return nil
}
