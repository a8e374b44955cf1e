package crc32c

import "testing"

// The check value of CRC-32C, from the catalogue of parametrised CRC algorithms (RFC 3720, B.4, has others).
func TestSum(t *testing.T) {
	const want = 0xe3069283
	if got := Sum([]byte("123456789")); got != want {
		t.Errorf("the checksum of 123456789 is %#x, want %#x", got, want)
	}
	if got := Update(Update(0, []byte("1234")), []byte("56789")); got != want {
		t.Errorf("in two pieces it is %#x, want %#x", got, want)
	}
}
