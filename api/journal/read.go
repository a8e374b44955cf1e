package journal

import (
	"bytes"
	"context"
	"encoding/json"
	"strconv"
	"time"
)

// maxExamined is how many lines one read examines.
const maxExamined = 100_000

// Query selects entries. Empty fields select all.
type Query struct {
	// Namespace and UID select objects; with a UID, also the events about the object.
	Namespace, UID string
	// Before selects entries of earlier revisions; 0 selects all.
	Before uint64
	// Limit is how many are returned; it must be positive.
	Limit int
}

// Page is the answer to a Query.
type Page struct {
	// Items are from the newest to the oldest.
	Items []Entry `json:"items"`
	// Before, if not 0, is for the next query: there are older entries that have not been looked at.
	Before uint64 `json:"before,omitempty"`
}

// Read returns the entries that a query selects and that visible permits, which is asked for each. At most two reads run at a time, others wait. Errors: the
// context ended; the files cannot be read.
func (j *Journal) Read(ctx context.Context, q Query, visible func(*Entry) bool) (Page, error) {
	select {
	case j.reading <- struct{}{}:
		defer func() { <-j.reading }()
	case <-ctx.Done():
		return Page{}, ctx.Err()
	}
	page := Page{Items: []Entry{}}
	oldest := time.Now().Add(-j.age)
	examined, last := 0, uint64(0)
	uid, namespace, missing := quoted(q.UID), quoted(q.Namespace), []byte(`"what":"`+Missing+`"`)
	var ended error
	err := j.disk.newestFirst(func(line []byte) bool {
		revision := revisionOf(line)
		if revision == 0 || q.Before != 0 && revision >= q.Before {
			return true
		}
		if examined++; examined%1024 == 0 {
			if ended = ctx.Err(); ended != nil {
				return false
			}
		}
		if examined > maxExamined || len(page.Items) >= q.Limit && revision != last {
			page.Before = revision + 1
			return false
		}
		if !bytes.Contains(line, missing) && !(bytes.Contains(line, uid) && bytes.Contains(line, namespace)) {
			return true
		}
		var e Entry
		if json.Unmarshal(line, &e) != nil {
			return true
		}
		if e.Time.Before(oldest) {
			return true // its file has newer ones
		}
		if q.selects(&e) && visible(&e) {
			page.Items = append(page.Items, e)
			last = e.Revision
		}
		return true
	})
	if ended != nil {
		return Page{}, ended
	}
	return page, err
}

func (q *Query) selects(e *Entry) bool {
	if e.What == Missing {
		return true
	}
	if q.Namespace != "" && e.Namespace != q.Namespace && !(e.Group == "" && e.Resource == "namespaces" && e.Name == q.Namespace) {
		return false
	}
	return q.UID == "" || e.UID == q.UID || e.About != nil && e.About.UID == q.UID
}

// quoted returns a text as it stands in a line; nothing for an empty one, which each line contains.
func quoted(text string) []byte {
	if text == "" {
		return nil
	}
	encoded, _ := json.Marshal(text) // a string has no errors
	return encoded
}

// revisionOf returns the revision of a line without decoding it, 0 if it has none.
func revisionOf(line []byte) (revision uint64) {
	digits, ok := bytes.CutPrefix(line, []byte(`{"revision":`))
	if !ok || line[len(line)-1] != '}' {
		return 0 // a line that was cut off
	}
	end := bytes.IndexByte(digits, ',')
	if end < 0 {
		return 0
	}
	revision, err := strconv.ParseUint(string(digits[:end]), 10, 64)
	if err != nil {
		return 0
	}
	return revision
}
