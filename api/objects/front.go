package objects

import (
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
)

// Values that are the same for all fronts.
const (
	// MaxBodyBytes limits a request's body or message, as upstream does.
	MaxBodyBytes = 3 << 20
	// DefaultRequestTimeout limits every request that is not long-running, as upstream does, unless a flag says otherwise.
	DefaultRequestTimeout = time.Minute
	// MinWatch is the shortest duration of a watch whose client sets none; the longest is twice that, so that the watches of a
	// restarted master do not all end at the same time.
	MinWatch = 30 * time.Minute
)

// TransactionsPath is the path by which transactions are authorized and recorded, whichever front they use.
const TransactionsPath = "/kontiki/v1/transactions"

const (
	maxWarnings     = 4 << 10 // in bytes
	maxManagerBytes = 128
)

// LongRunning says whether requests with a verb for a subresource may take as long as the client wants. The limits of duration and
// number do not apply to them.
func LongRunning(verb, subresource string) bool {
	switch subresource {
	case "attach", "exec", "log", "portforward", "proxy":
		return true
	}
	return verb == "watch"
}

// Mutating says whether requests with a verb count as changing something.
func Mutating(verb string) bool { return verb != "get" && verb != "list" && verb != "watch" }

// HealthPath says whether a path is used to check that this master is alive. No limit applies to it: a busy master is not a dead
// one.
func HealthPath(path string) bool {
	for _, root := range []string{"/healthz", "/livez", "/readyz"} {
		if rest, ok := strings.CutPrefix(path, root); ok && (rest == "" || rest[0] == '/') {
			return true
		}
	}
	return false
}

// Warnings collects the warnings of a response: each text once, however often the write was prepared, and limited in size.
type Warnings struct {
	texts []string
	bytes int
}

// Add adds a text, and returns whether it is new.
func (w *Warnings) Add(text string) bool {
	if w.bytes+len(text) > maxWarnings || slices.Contains(w.texts, text) {
		return false
	}
	w.texts = append(w.texts, text)
	w.bytes += len(text)
	return true
}

// Texts returns all warnings, in order.
func (w *Warnings) Texts() []string { return w.texts }

// FieldManager returns the owner of fields in managed fields: the one that the request names, or else the part of the client's user
// agent before the first slash.
func FieldManager(named, userAgent string) string {
	if named == "" {
		named, _, _ = strings.Cut(userAgent, "/")
	}
	return named[:min(len(named), maxManagerBytes)]
}

// FieldValidation returns the validation that a request asks for, or the server's default: warn.
func FieldValidation(asked string) string {
	if asked == "" {
		return metav1.FieldValidationWarn
	}
	return asked
}

// NameSelector returns a field selector, which may be nil, extended by a name.
func NameSelector(selector fields.Selector, name string) fields.Selector {
	one := fields.OneTermEqualSelector("metadata.name", name)
	if selector == nil || selector.Empty() {
		return one
	}
	return fields.AndSelectors(selector, one)
}
