package logline

import (
	"fmt"
	"log"
	"slices"
	"testing"
)

func TestEachLineIsACall(t *testing.T) {
	var lines []string
	l := log.New(Writer(func(line []byte) { lines = append(lines, string(line)) }), "p: ", 0)
	l.Print("one")
	l.Print("two\nlines\n")
	if n, err := fmt.Fprint(Writer(func([]byte) {}), "abc\n"); n != 4 || err != nil {
		t.Errorf("wrote %d, %v", n, err)
	}
	if want := []string{"p: one", "p: two\nlines"}; !slices.Equal(lines, want) {
		t.Errorf("lines are %q, want %q", lines, want)
	}
}
