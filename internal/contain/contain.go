// Package contain keeps a panic within the function that it happened in. A panic that nothing recovers ends the whole
// process, whichever goroutine it happens in, so everything that works on what a client or a host sent runs contained:
// a request, a session, a reconciliation then fails with an error, and the process goes on.
//
// What recover cannot stop stays fatal: concurrent map writes, exhausted memory and stacks, and panics in goroutines
// that a library starts.
package contain

import (
	"errors"
	"fmt"
	"runtime/debug"
)

// Panic is the error that a panic became. Its text is for whoever asked and leaves the stack out.
type Panic struct {
	Value any
	// Stack is that of the goroutine that panicked.
	Stack string
}

// Error implements error.
func (p *Panic) Error() string { return fmt.Sprintf("panic: %v", p.Value) }

// Unwrap is the value that was panicked with, if it is an error.
func (p *Panic) Unwrap() error {
	err, _ := p.Value.(error)
	return err
}

// Run calls f and returns its error, or a *Panic if it panicked.
func Run(f func() error) (err error) {
	defer Recover(&err)
	return f()
}

// Recover turns a panic of the function that defers it into that function's error.
func Recover(err *error) {
	if value := recover(); value != nil {
		*err = &Panic{Value: value, Stack: string(debug.Stack())}
	}
}

// Stack is the stack of the panic that an error came from, "" for another error. It is for the log.
func Stack(err error) string {
	var p *Panic
	if errors.As(err, &p) {
		return p.Stack
	}
	return ""
}
