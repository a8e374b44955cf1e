// Package stack makes room on the stack of a goroutine.
package stack

import "runtime"

// room is what a request needs at most times: the next power of two is the stack's size after Grow.
const room = 20 << 10

// Grow gives the calling goroutine a stack of 32 KiB, unless it has that. A goroutine begins with a few KiB, and when that is full the runtime
// copies all frames to a stack of twice the size, again and again while calls go deeper: with the deep stacks of a request this takes
// some 5 % of its time. At the beginning of a goroutine there is hardly anything to copy. The garbage collector makes the stack of a
// goroutine that does not use it smaller.
//
//go:noinline
func Grow() {
	var frame [room]byte
	runtime.KeepAlive(&frame)
}
