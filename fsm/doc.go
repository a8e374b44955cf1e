// Package fsm is the replicated state machine: a revisioned key-value store.
package fsm
