package top

import (
	"strings"
	"testing"
	"unicode"
)

func TestCleanRemovesWhatControlsATerminal(t *testing.T) {
	for _, c := range []struct{ in, out string }{
		{"web-1", "web-1"},
		{"grün 世界", "grün 世界"},
		{"a\tb\r\n", "a    b"},
		{"\x1b[31mred\x1b[0m", "red"},
		{"\x1b]0;title\x07after", "after"},
		{"\x1b]52;c;ZXZpbA==\x1b\\after", "after"},
		{"\x1bP1$r0m\x1b\\x", "x"},
		{"\x1b(0x", "x"},
		{"\x1bcx", "x"},
		{"\x1b[2\x1b[2Jx", "x"},
		{"\x1b]0;never ends", ""},
		{"\x1b", ""},
		{"\u009b31mc1", "31mc1"},
		{"a\u202eb\u200fc\ufeffd", "abcd"},
		{"bad\xff\xfeutf", "badutf"},
		{"bell\a back\b", "bell back"},
	} {
		if got := clean(c.in, 100); got != c.out {
			t.Errorf("clean(%q) = %q, want %q", c.in, got, c.out)
		}
	}
	if got := clean(strings.Repeat("ü", 10), 5); got != "üü" {
		t.Errorf("5 bytes of umlauts: %q", got)
	}
}

func FuzzClean(f *testing.F) {
	f.Add("\x1b[31m\x1b]0;\x07\u009b\x1b\x1b[")
	f.Fuzz(func(t *testing.T, text string) {
		got := clean(text, 50)
		if len(got) > 50 {
			t.Errorf("%d bytes", len(got))
		}
		for _, r := range got {
			if !unicode.IsPrint(r) {
				t.Errorf("%q has %q", got, r)
			}
		}
	})
}

func TestNaturalOrder(t *testing.T) {
	for _, c := range [][2]string{{"web-9", "web-10"}, {"a", "b"}, {"web", "web-1"}, {"007", "8"}, {"9m", "120m"}} {
		if natural(c[0], c[1]) >= 0 || natural(c[1], c[0]) <= 0 {
			t.Errorf("%q is not before %q", c[0], c[1])
		}
	}
	if natural("a1", "a01") != 0 {
		t.Error("zeros before a number count")
	}
}
