// Package logline adapts loggers that write lines of text to functions.
package logline

import "bytes"

// Writer calls a function with each write, without the line's end. The bytes are the function's only until it returns. It is as safe for
// concurrent use as the function.
type Writer func(line []byte)

// Write implements io.Writer. It never fails.
func (w Writer) Write(p []byte) (int, error) {
	w(bytes.TrimRight(p, "\n"))
	return len(p), nil
}
