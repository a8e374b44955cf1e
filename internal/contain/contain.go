// Package contain turns a panic into an error of the function in which it happened. A panic that is not recovered ends the whole
// process, whichever goroutine it happens in, so everything that processes input from a client or a host runs contained: a request,
// a session or a reconciliation then fails with an error, and the process continues.
//
// Some failures cannot be recovered and remain fatal: concurrent map writes, exhausted memory and stacks, and panics in goroutines
// that a library starts.
package contain

import (
	"errors"
	"fmt"
	"runtime/debug"
)

// Panic is the error for a recovered panic. Its text, which may be sent to clients, does not contain the stack.
type Panic struct {
	Value any
	// Stack is the stack of the goroutine that panicked.
	Stack string
}

// Error implements error.
func (p *Panic) Error() string { return fmt.Sprintf("panic: %v", p.Value) }

// Unwrap returns the panic's value, if it is an error.
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

// Stack returns the stack of the panic that caused an error, for the log, or "" for another error.
func Stack(err error) string {
	var p *Panic
	if errors.As(err, &p) {
		return p.Stack
	}
	return ""
}
