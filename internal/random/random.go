// Package random generates random names.
package random

import (
	"crypto/rand"
	"encoding/hex"
)

// Hex returns that many random bytes, hex-encoded. crypto/rand never fails: it ends the process instead.
func Hex(bytes int) string {
	b := make([]byte, bytes)
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}
