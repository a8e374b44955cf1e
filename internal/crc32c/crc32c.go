// Package crc32c computes CRC-32C (Castagnoli) checksums, which processors compute in hardware. Everything that Kontiki keeps
// in files of its own carries them.
package crc32c

import "hash/crc32"

// Size is how many bytes a checksum has.
const Size = crc32.Size

var table = crc32.MakeTable(crc32.Castagnoli)

// Sum returns the checksum of b.
func Sum(b []byte) uint32 { return crc32.Checksum(b, table) }

// Update adds b to a checksum. The checksum of nothing is 0.
func Update(sum uint32, b []byte) uint32 { return crc32.Update(sum, table, b) }
