// Package random generates random names. crypto/rand never fails: it ends the process instead.
package random

import (
	"crypto/rand"
	"encoding/hex"

	"github.com/kontiki/kontiki/internal/kv"
)

// Hex returns that many random bytes, hex-encoded.
func Hex(bytes int) string {
	b := make([]byte, bytes)
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}

// CommandID returns a random command id.
func CommandID() (id kv.CommandID) {
	_, _ = rand.Read(id[:])
	return id
}
