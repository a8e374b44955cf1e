package keepalive

import "encoding/binary"

// Frames of HTTP/2 (RFC 9113, section 4.1): 9 bytes of header, then the payload.
const (
	headerLen = 9

	typeData         = 0x0
	typeHeaders      = 0x1
	typePushPromise  = 0x5
	typePing         = 0x6
	typeGoAway       = 0x7
	typeContinuation = 0x9

	flagAck        = 0x1
	flagEndHeaders = 0x4

	enhanceYourCalm = 0xb
)

type header struct {
	kind, flags byte
	stream      uint32
}

// frames parses a stream of frames that arrives in pieces of any length.
type frames struct {
	skip    int // bytes of payload, or of the client's preface, that are still to come
	have    int // bytes of a header that have already come
	head    [headerLen]byte
	partial bool // within a header block: no other frame may be inserted
}

// pass parses the next piece, and calls seen with the header of each frame in it.
func (f *frames) pass(b []byte, seen func(header)) {
	for {
		n := min(f.skip, len(b))
		f.skip -= n
		b = b[n:]
		if len(b) == 0 {
			return
		}
		n = copy(f.head[f.have:], b)
		f.have += n
		b = b[n:]
		if f.have < headerLen {
			return
		}
		f.have = 0
		f.skip = int(f.head[0])<<16 | int(f.head[1])<<8 | int(f.head[2])
		h := header{kind: f.head[3], flags: f.head[4], stream: binary.BigEndian.Uint32(f.head[5:]) &^ (1 << 31)}
		switch h.kind {
		case typeHeaders, typePushPromise, typeContinuation:
			f.partial = h.flags&flagEndHeaders == 0
		}
		seen(h)
	}
}

// between says whether another frame may be inserted here.
func (f *frames) between() bool { return f.skip == 0 && f.have == 0 && !f.partial }

// goAway returns a GOAWAY frame (RFC 9113, section 6.8).
func goAway(lastStream uint32, code uint32, debug string) []byte {
	n := 8 + len(debug)
	b := make([]byte, 0, headerLen+n)
	b = append(b, byte(n>>16), byte(n>>8), byte(n), typeGoAway, 0, 0, 0, 0, 0)
	b = binary.BigEndian.AppendUint32(b, lastStream)
	b = binary.BigEndian.AppendUint32(b, code)
	return append(b, debug...)
}
