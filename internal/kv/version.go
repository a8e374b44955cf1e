package kv

import "sync/atomic"

// Version is one stored version of a key. All but its forms is immutable; it is shared by every reader as read-only.
// A version made outside a store (a literal) works as well; its forms are not bounded.
type Version struct {
	Key            string
	Value          []byte
	CreateRevision uint64
	ModRevision    uint64

	cache *FormCache
	forms atomic.Pointer[formSet] // nil until the first form is asked for
}

// FormSlot names one of the forms that a version's value can be read in (decoded object, JSON, protobuf, ...). What a
// slot holds is agreed among the readers; the store never looks into it.
type FormSlot uint8

// NumForms is the number of slots of a version.
const NumForms = 4

// BuildForm makes a form from a version; size is its cost in bytes against the cache's bound. It may ask the same
// version for a form of another slot (in one fixed order of slots, or two builders wait for each other), never for its own.
type BuildForm func(v *Version) (form any, size int, err error)
