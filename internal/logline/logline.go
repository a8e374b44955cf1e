// Package logline adapts functions to loggers that write lines of text, and limits the lines that clients cause.
package logline

import "bytes"

// Writer calls a function for each write, without the trailing newline. The function must not keep the bytes after it returns.
// Writer is safe for concurrent use if the function is.
type Writer func(line []byte)

// Write implements io.Writer. It never fails.
func (w Writer) Write(p []byte) (int, error) {
	w(bytes.TrimRight(p, "\n"))
	return len(p), nil
}
