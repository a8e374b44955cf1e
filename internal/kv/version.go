package kv

// Version is one stored version of a key. All but its forms is immutable; it is shared by every reader as read-only.
type Version struct {
	Key            string
	Value          []byte
	CreateRevision uint64
	ModRevision    uint64

	cache *FormCache
	forms formSlots
}

// FormSlot names one of the forms that a version's value can be read in (decoded object, JSON, protobuf, ...). What a
// slot holds is agreed among the readers; the store never looks into it.
type FormSlot uint8

// NumForms is the number of slots of a version.
const NumForms = 4

// BuildForm makes a form from a version; size is its cost in bytes against the cache's bound.
type BuildForm func(v *Version) (form any, size int, err error)
