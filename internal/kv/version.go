package kv

import "sync/atomic"

// Version is one stored version of a key. It is immutable except for its forms, and shared by all readers as read-only. A version
// created outside a store (a literal) works as well; its forms are not limited.
type Version struct {
	Key            string
	Value          []byte
	CreateRevision uint64
	ModRevision    uint64

	cache *FormCache
	forms atomic.Pointer[formSet] // nil until the first form is requested
}

// FormSlot identifies one of the forms of a version's value (decoded object, JSON, protobuf, ..., each in one of several API
// versions). The readers agree on what a slot contains; the store never uses it. Few slots of a version are in use at a time: they
// are searched one after the other.
//
// The upper 32 bits are a generation. What a form is built with (a schema, for example) may be replaced: forms of the next generation
// take the place of those before, which are no longer kept then.
type FormSlot uint64

func (s FormSlot) generation() FormSlot { return s >> 32 }

// BuildForm builds a form of a version; size is its cost in bytes in the cache. It may request a form of the same version in
// another slot (always in the same order of slots, or two builders deadlock), but never in its own.
type BuildForm func(v *Version) (form any, size int, err error)
