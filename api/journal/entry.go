package journal

import "time"

// Path is where every master serves its journal.
const Path = "/kontiki/v1/journal"

// What happened.
const (
	Created = "created"
	Changed = "changed"
	Deleted = "deleted"
	// Happened is an event of the API.
	Happened = "event"
	// Missing stands for changes that are not recorded: all between Since and Time, or Count of them.
	Missing = "missing"
)

// Bounds of an entry.
const (
	MaxFields = 50
	// maxPath, maxText and maxReason are in bytes.
	maxPath   = 160
	maxText   = 1024
	maxReason = 128
)

// Entry is one line of the journal.
type Entry struct {
	// Revision is the store's revision of the change; entries are in its order.
	Revision uint64    `json:"revision"`
	Time     time.Time `json:"time"`
	What     string    `json:"what"`

	Group     string `json:"group,omitempty"`
	Resource  string `json:"resource,omitempty"`
	Kind      string `json:"kind,omitempty"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	UID       string `json:"uid,omitempty"`

	// Manager and Subresource are of the managed fields' entry that the change wrote; User is who deleted the object. Each may be empty.
	Manager     string `json:"manager,omitempty"`
	Subresource string `json:"subresource,omitempty"`
	User        string `json:"user,omitempty"`
	// Fields are the paths of what changed, at most MaxFields; More is how many there are beyond them, at least.
	Fields []string `json:"fields,omitempty"`
	More   bool     `json:"more,omitempty"`

	// Of an event: its type, reason and text, and which object it is about.
	Type   string  `json:"type,omitempty"`
	Reason string  `json:"reason,omitempty"`
	Text   string  `json:"text,omitempty"`
	About  *Object `json:"about,omitempty"`

	// Since and Count are of Missing; Count is also how often an event had occurred.
	Since *time.Time `json:"since,omitempty"`
	Count int        `json:"count,omitempty"`
}

// Object names the object that an event is about.
type Object struct {
	APIVersion string `json:"apiVersion,omitempty"`
	Kind       string `json:"kind,omitempty"`
	Namespace  string `json:"namespace,omitempty"`
	Name       string `json:"name,omitempty"`
	UID        string `json:"uid,omitempty"`
}

// cut returns the beginning of a text of at most so many bytes, in whole characters.
func cut(text string, most int) string {
	if len(text) <= most {
		return text
	}
	end := most
	for end > 0 && text[end]&0xC0 == 0x80 {
		end--
	}
	return text[:end] + "…"
}
