package reader_test

import (
	"regexp"
	"strings"
)

// masks are what differs from run to run in what commands print.
var masks = []struct {
	pattern *regexp.Regexp
	mask    string
}{
	{regexp.MustCompile(`\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b`), "UID"},
	{regexp.MustCompile(`\b[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d UTC \d{4}\b`), "TIME"},
	{regexp.MustCompile(`\b[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d [+-]\d{4}\b`), "TIME"},
	{regexp.MustCompile(`\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?Z?`), "TIME"},
	{regexp.MustCompile(`\b\d+\.\d+\.\d+\.\d+\b(\]?:\d+\b)?`), "ADDRESS"},
	{regexp.MustCompile(`\b(\d+(\.\d+)?(ms|d|h|m|s))+\b`), "AGE"},
	{regexp.MustCompile(`\b[0-9a-f]{16}\b`), "ID"},
	{regexp.MustCompile(`(?i)\b(revision|objects|term|epoch):? +\d+`), "$1 N"},
	{regexp.MustCompile(`\b\d+ (objects|bytes|B|kB|MB|MiB|GiB)\b`), "N $1"},
	{regexp.MustCompile(`\b\d+(\.\d+)?(Ki|Mi|Gi)\b`), "SIZE"},
	{regexp.MustCompile(`\b\d{4,}\b`), "N"},
	{regexp.MustCompile(`v\d+\.\d+\.\d+\+kontiki\.[\w.-]+`), "VERSION"},
	{regexp.MustCompile(`\b\d+ ?%`), "N%"},
	{regexp.MustCompile(`\b[bcdfghjklmnpqrstvwxz2456789]{6,10}-[bcdfghjklmnpqrstvwxz2456789]{5}\b`), "POD"},
}

// masked replaces what differs from run to run, and the width of columns.
func masked(line string) string {
	for _, m := range masks {
		line = m.pattern.ReplaceAllString(line, m.mask)
	}
	return strings.Join(strings.Fields(line), " ")
}

// podName matches the names of pods of Deployments: NAME-HASH-SUFFIX.
var podName = regexp.MustCompile(`\b[a-z0-9-]*[a-z0-9]-[bcdfghjklmnpqrstvwxz2456789]{6,10}-[bcdfghjklmnpqrstvwxz2456789]{5}\b`)

// compare says whether the lines are what a document shows. "..." stands for any lines, or within a line for any text. names gets the pods of the lines, by
// those of the document.
func compare(want, got []string, names map[string]string) bool {
	if len(want) == 0 {
		return len(got) == 0
	}
	if want[0] == "..." {
		for i := range len(got) + 1 {
			if compare(want[1:], got[i:], names) {
				return true
			}
		}
		return false
	}
	if len(got) == 0 || !same(want[0], got[0]) || !compare(want[1:], got[1:], names) {
		return false
	}
	mine, theirs := podName.FindAllString(want[0], -1), podName.FindAllString(got[0], -1)
	if len(mine) == len(theirs) {
		for i, name := range mine {
			if names[name] == "" {
				names[name] = theirs[i]
			}
		}
	}
	return true
}

func same(want, got string) bool {
	parts := strings.Split(masked(want), "...")
	for i, part := range parts {
		parts[i] = regexp.QuoteMeta(part)
	}
	return regexp.MustCompile("^" + strings.Join(parts, ".*") + "$").MatchString(masked(got))
}

// filled are the lines of an output that are not empty.
func filled(text string) (lines []string) {
	for line := range strings.Lines(text) {
		if strings.TrimSpace(line) != "" {
			lines = append(lines, strings.TrimRight(line, " \r\n"))
		}
	}
	return lines
}
