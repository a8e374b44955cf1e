package kv

import "sync/atomic"

// formSlots hold a version's lazily built forms.
type formSlots [NumForms]atomic.Pointer[formEntry]

type formEntry struct {
	form any
	size int
}

// FormCache bounds the bytes that the forms of all versions of one store take.
type FormCache struct{}

// Form answers the form in a slot, building it at most once for all readers; it is read-only. An error is not kept.
func (v *Version) Form(slot FormSlot, build BuildForm) (any, error) {
	if e := v.forms[slot].Load(); e != nil {
		return e.form, nil
	}
	form, size, err := build(v)
	if err != nil {
		return nil, err
	}
	v.forms[slot].Store(&formEntry{form, size})
	return form, nil
}
