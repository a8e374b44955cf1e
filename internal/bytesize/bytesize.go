// Package bytesize writes numbers of bytes for people.
package bytesize

import "fmt"

// Text returns a number of bytes with two or three significant digits and a binary unit, as in 1.5 GiB.
func Text(n float64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	i := 0
	for n >= 1024 && i < len(units)-1 {
		n, i = n/1024, i+1
	}
	if n >= 10 || i == 0 {
		return fmt.Sprintf("%.0f %s", n, units[i])
	}
	return fmt.Sprintf("%.1f %s", n, units[i])
}
