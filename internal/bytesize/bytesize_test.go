package bytesize_test

import (
	"testing"

	"github.com/kontiki/kontiki/internal/bytesize"
)

func TestText(t *testing.T) {
	for n, want := range map[float64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 10 << 20: "10 MiB", 3 << 30: "3.0 GiB", 1 << 60: "1024 PiB",
	} {
		if got := bytesize.Text(n); got != want {
			t.Errorf("%v: %q, want %q", n, got, want)
		}
	}
}
