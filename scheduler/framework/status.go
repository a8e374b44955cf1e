package framework

import (
	"slices"
	"strings"
)

// Code says what a plugin decided.
type Code int

// The codes. A nil *Status is a success.
const (
	// Error is an internal failure; the pod is tried again.
	Error Code = iota + 1
	// Unschedulable means that the pod does not fit now. Removing pods from the node may help.
	Unschedulable
	// UnschedulableAndUnresolvable means that the pod does not fit, and that removing pods from the node would not help.
	UnschedulableAndUnresolvable
)

// Status is the refusal of a plugin. It is immutable, so that plugins can return the same one for many nodes.
type Status struct {
	Code   Code
	Plugin string
	// Reasons are for people, in upstream's words.
	Reasons []string
}

// Refuse returns a status.
func Refuse(code Code, plugin string, reasons ...string) *Status {
	return &Status{Code: code, Plugin: plugin, Reasons: reasons}
}

// Failed returns the status of an internal failure.
func Failed(plugin string, err error) *Status { return Refuse(Error, plugin, err.Error()) }

// Message joins the reasons.
func (s *Status) Message() string {
	if s == nil {
		return ""
	}
	return strings.Join(s.Reasons, ", ")
}

// Equal says whether two statuses say the same.
func (s *Status) Equal(t *Status) bool {
	if s == nil || t == nil {
		return s == t
	}
	return s.Code == t.Code && s.Plugin == t.Plugin && slices.Equal(s.Reasons, t.Reasons)
}
