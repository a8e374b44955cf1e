// Package crc32c computes CRC-32C (Castagnoli) checksums, which processors compute in hardware. All file formats of Kontiki use
// them.
package crc32c

import "hash/crc32"

// Size is the length of a checksum in bytes.
const Size = crc32.Size

var table = crc32.MakeTable(crc32.Castagnoli)

// Sum returns the checksum of b.
func Sum(b []byte) uint32 { return crc32.Checksum(b, table) }

// Update returns the checksum of the bytes of sum followed by b. The checksum of no bytes is 0.
func Update(sum uint32, b []byte) uint32 { return crc32.Update(sum, table, b) }
