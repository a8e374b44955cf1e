package aliases_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/kontiki/kontiki/internal/aliases"
)

func TestCheck(t *testing.T) {
	const limit = 1 << 20
	long := strings.Repeat("x", 100_000)
	repeated := func(alias string, n int) string { return strings.TrimSuffix(strings.Repeat(alias+", ", n), ", ") }
	for _, c := range []struct {
		name, document string
		refused        bool
	}{
		{"a text that is repeated", fmt.Sprintf("a: &a %s\nb: [%s]\n", long, repeated("*a", 4000)), true},
		{"the same in braces, as JSON begins", fmt.Sprintf("{a: &a %s, b: [%s]}", long, repeated("*a", 4000)), true},
		{"a key that is repeated", fmt.Sprintf("a: &a {%q: 1}\nb: [%s]\n", long[:1000], repeated("*a", 4000)), true},
		{"lists of lists", fmt.Sprintf("a: &a %s\nb: &b [%s]\nc: [%s]\n", long[:1000], repeated("*a", 100), repeated("*b", 100)), true},
		{"merged maps", fmt.Sprintf("a: &a {k: %s}\nb: [%s]\n", long, repeated("{<<: *a}", 40)), true},
		{"few aliases", "a: &a text\nb: [*a, *a]\n", false},
		{"a long text with the signs", "a: '" + long + " && *'\n", false},
		{"JSON with the signs", `{"a": "` + strings.Repeat("&a *a ", limit) + `"}`, false},
		{"no YAML", "&a *a: [", false},
	} {
		if err := aliases.Check([]byte(c.document), limit); (err != nil) != c.refused {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
