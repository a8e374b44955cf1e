package objects

import (
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
)

// What is the same in every front.
const (
	// MaxBodyBytes bounds a request's body or message, as upstream does.
	MaxBodyBytes = 3 << 20
	// DefaultRequestTimeout bounds every request that is not long-running, as upstream does, unless a flag says otherwise.
	DefaultRequestTimeout = time.Minute
	// MinWatch is the shortest life of a watch whose client names none; the longest is twice that, so that the watches of
	// a restarted master do not all end together.
	MinWatch = 30 * time.Minute
)

// TransactionsPath stands for transactions where access to paths is decided and recorded, whatever front they come by.
const TransactionsPath = "/kontiki/v1/transactions"

const (
	maxWarnings     = 4 << 10 // bytes
	maxManagerBytes = 128
)

// LongRunning says whether requests with a verb for a subresource take as long as their clients want them to. No limit of time
// or number applies to them.
func LongRunning(verb, subresource string) bool {
	switch subresource {
	case "attach", "exec", "log", "portforward", "proxy":
		return true
	}
	return verb == "watch"
}

// Mutating says whether requests with a verb count as those that change something.
func Mutating(verb string) bool { return verb != "get" && verb != "list" && verb != "watch" }

// HealthPath says whether a path is asked by whoever decides if this master lives. No limit applies there: a busy master is not
// a dead one.
func HealthPath(path string) bool {
	for _, root := range []string{"/healthz", "/livez", "/readyz"} {
		if rest, ok := strings.CutPrefix(path, root); ok && (rest == "" || rest[0] == '/') {
			return true
		}
	}
	return false
}

// Warnings gathers what an answer warns of: each text once, however often the write was prepared, and within bounds.
type Warnings struct {
	texts []string
	bytes int
}

// Add answers whether the text is new.
func (w *Warnings) Add(text string) bool {
	if w.bytes+len(text) > maxWarnings || slices.Contains(w.texts, text) {
		return false
	}
	w.texts = append(w.texts, text)
	w.bytes += len(text)
	return true
}

// Texts are all warnings, in order.
func (w *Warnings) Texts() []string { return w.texts }

// FieldManager is who fields belong to: whom the request names, or else the client's program, which stands before the first
// slash of its user agent.
func FieldManager(named, userAgent string) string {
	if named == "" {
		named, _, _ = strings.Cut(userAgent, "/")
	}
	return named[:min(len(named), maxManagerBytes)]
}

// FieldValidation is what a request asks for, or the default of servers: warn.
func FieldValidation(asked string) string {
	if asked == "" {
		return metav1.FieldValidationWarn
	}
	return asked
}

// NameSelector adds a name to a field selector, which may be nil.
func NameSelector(selector fields.Selector, name string) fields.Selector {
	one := fields.OneTermEqualSelector("metadata.name", name)
	if selector == nil || selector.Empty() {
		return one
	}
	return fields.AndSelectors(selector, one)
}
