// Package aliases limits what a YAML document may become when its aliases are replaced by what they stand for. The YAML library limits how
// often aliases are followed, but not the size of what they refer to: an anchor on a text of 200 kB and 4,000 aliases of it, 220 kB in all,
// become 800 MB of JSON.
package aliases

import (
	"bytes"
	"encoding/json"
	"fmt"

	"go.yaml.in/yaml/v2"
)

// Check refuses a document, in YAML or JSON, that has aliases and becomes larger than limit, in bytes of JSON and about, when they are
// replaced. It must be called before the document is converted to JSON. A document that cannot be parsed is no error here, and costs
// nothing but the time to find that. What it takes itself is a small multiple of the document.
func Check(document []byte, limit int) error {
	if bytes.IndexByte(document, '&') < 0 || bytes.IndexByte(document, '*') < 0 || json.Valid(document) {
		return nil // no aliases
	}
	// This is the parser of sigs.k8s.io/yaml. The texts that it returns for aliases share their memory.
	var content any
	if err := yaml.Unmarshal(document, &content); err != nil {
		return nil
	}
	if left := remaining(content, limit); left < 0 {
		return fmt.Errorf("the YAML becomes larger than %d bytes when its aliases are replaced; write out less, or send JSON", limit)
	}
	return nil
}

// remaining returns what a value leaves of a number of bytes; it stops when that is less than nothing.
func remaining(value any, left int) int {
	const punctuation = 2
	left -= punctuation
	switch v := value.(type) {
	case string:
		left -= len(v)
	case []any:
		for _, item := range v {
			if left = remaining(item, left); left < 0 {
				return left
			}
		}
	case map[any]any:
		for key, item := range v {
			if left = remaining(item, remaining(key, left)); left < 0 {
				return left
			}
		}
	}
	return left
}
