package storage

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

func TestSealsDoNotChangeWhatIsSealed(t *testing.T) {
	extensions := make([]byte, 4, 64) // with room behind, which is the caller's
	logs := []*raft.Log{entry(7, 2, "one"), entry(8, 2, "two")}
	logs[0].Extensions = extensions
	want := []raft.Log{*logs[0], *logs[1]}
	sealed, last := seal(logs, 11)
	for i, l := range logs {
		if fmt.Sprint(*l) != fmt.Sprint(want[i]) {
			t.Errorf("entry %d became %+v", want[i].Index, *l)
		}
	}
	if !bytes.Equal(extensions[:cap(extensions)], make([]byte, 64)) {
		t.Errorf("the caller's bytes became %x", extensions[:cap(extensions)])
	}
	previous := uint32(11)
	for i, l := range sealed {
		got := *l
		before, sum, err := unseal(want[i].Index, &got)
		if err != nil || before != previous || fmt.Sprint(got) != fmt.Sprint(want[i]) {
			t.Errorf("entry %d behind %d is %+v behind %d, %v", want[i].Index, previous, got, before, err)
		}
		previous = sum
	}
	if previous != last {
		t.Errorf("the last checksum is %x, not %x", last, previous)
	}
}

// Whatever changes in an entry is found: a field, a bit of data or extensions, the border between these, and the entry's place.
func TestASealCoversEverything(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for range 200 {
		l := &raft.Log{Index: r.Uint64N(1 << 40), Term: r.Uint64N(1 << 30), Type: raft.LogType(r.IntN(6)), Data: make([]byte, r.IntN(300)), Extensions: make([]byte, r.IntN(20))}
		if r.IntN(2) == 0 {
			l.AppendedAt = time.Unix(r.Int64N(1<<32), r.Int64N(1e9))
		}
		sealed, _ := seal([]*raft.Log{l}, r.Uint32())
		changes := map[string]func(l *raft.Log) (index uint64){
			"index":              func(l *raft.Log) uint64 { l.Index++; return l.Index },
			"asked for index":    func(l *raft.Log) uint64 { return l.Index + 1 },
			"term":               func(l *raft.Log) uint64 { l.Term ^= 1 << r.IntN(64); return l.Index },
			"type":               func(l *raft.Log) uint64 { l.Type ^= 1 << r.IntN(8); return l.Index },
			"time":               func(l *raft.Log) uint64 { l.AppendedAt = time.Unix(1, l.AppendedAt.UnixNano()); return l.Index },
			"more data":          func(l *raft.Log) uint64 { l.Data = append(slices.Clip(l.Data), 0); return l.Index },
			"a bit of extension": func(l *raft.Log) uint64 { flipBit(r, l.Extensions); return l.Index },
			"extensions cut":     func(l *raft.Log) uint64 { l.Extensions = l.Extensions[:r.IntN(len(l.Extensions))]; return l.Index },
			"no seal":            func(l *raft.Log) uint64 { l.Extensions = nil; return l.Index },
		}
		if len(l.Data) > 0 {
			changes["a bit of data"] = func(l *raft.Log) uint64 { flipBit(r, l.Data); return l.Index }
			changes["the border"] = func(l *raft.Log) uint64 {
				l.Extensions = append([]byte{l.Data[0]}, l.Extensions...)
				l.Data = l.Data[1:]
				return l.Index
			}
		}
		for name, change := range changes {
			bad := *sealed[0]
			bad.Data, bad.Extensions = bytes.Clone(bad.Data), bytes.Clone(bad.Extensions)
			if index := change(&bad); fmt.Sprint(bad) == fmt.Sprint(*sealed[0]) && index == bad.Index {
				t.Fatalf("%s: nothing changed", name)
			} else if _, _, err := unseal(index, &bad); err == nil {
				t.Errorf("%s: it was not noticed in %+v", name, *l)
			}
		}
	}
}

func flipBit(r *rand.Rand, b []byte) { b[r.IntN(len(b))] ^= 1 << r.IntN(8) }

func TestAStableValueIsBoundToItsKey(t *testing.T) {
	stored := sealValue([]byte("CurrentTerm"), []byte("seven"), 3)
	if value, writes, err := openValue([]byte("CurrentTerm"), stored); err != nil || string(value) != "seven" || writes != 3 {
		t.Errorf("it holds %q, number %d, %v", value, writes, err)
	}
	if _, _, err := openValue([]byte("LastVoteTerm"), stored); err == nil {
		t.Error("it was taken for another's")
	}
	for i := range stored {
		bad := bytes.Clone(stored)
		bad[i] ^= 4
		if _, _, err := openValue([]byte("CurrentTerm"), bad); err == nil {
			t.Errorf("a flipped bit in byte %d was not noticed", i)
		}
		if _, _, err := openValue([]byte("CurrentTerm"), stored[:i]); err == nil {
			t.Errorf("cut to %d bytes it was not noticed", i)
		}
	}
}
