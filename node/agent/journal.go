package agent

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/proto"

	"github.com/kontiki/kontiki/internal/crc32c"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

// journal keeps assignments on disk: a file of checksummed records, one write and one fsync for each assignment that
// comes. A torn tail, as a crash leaves it, is cut off. When it has grown to twice its live content it is written anew
// beside and renamed. It holds Secrets, so only its owner may read it.
//
// A record is one byte of kind, four of length (big endian), four of CRC-32C over kind and body, and the body.
type journal struct {
	path string
	f    *os.File
	size int64 // bytes written
	base int64 // size after the last rewrite
	// welcome is kept here so that a rewrite has it.
	welcome *nodev1.Welcome
}

const (
	recordWelcome    = 1
	recordAssignment = 2
	maxRecord        = 256 << 20
	minRewrite       = 1 << 20
)

func openJournal(path string, welcome func(*nodev1.Welcome), assignment func(*nodev1.Assignment)) (*journal, error) {
	j := &journal{path: path}
	os.Remove(path + ".tmp")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	good, err := j.replay(f, welcome, assignment)
	if err != nil {
		slog.Warn("assignments on disk end early", "path", path, "good_bytes", good, "err", err)
		if err := f.Truncate(good); err != nil {
			f.Close()
			return nil, err
		}
	}
	if _, err := f.Seek(good, io.SeekStart); err != nil {
		f.Close()
		return nil, err
	}
	j.f, j.size, j.base = f, good, good
	return j, nil
}

// replay reads records until the end or the first bad one, and answers how many bytes are good.
func (j *journal) replay(f *os.File, welcome func(*nodev1.Welcome), assignment func(*nodev1.Assignment)) (good int64, err error) {
	r := bufio.NewReaderSize(f, 1<<20)
	for {
		var head [9]byte
		if _, err := io.ReadFull(r, head[:]); err == io.EOF {
			return good, nil
		} else if err != nil {
			return good, err
		}
		n := binary.BigEndian.Uint32(head[1:])
		if n > maxRecord {
			return good, fmt.Errorf("record of %d bytes", n)
		}
		body := make([]byte, n)
		if _, err := io.ReadFull(r, body); err != nil {
			return good, err
		}
		if sum(head[0], body) != binary.BigEndian.Uint32(head[5:]) {
			return good, errors.New("bad checksum")
		}
		switch head[0] {
		case recordWelcome:
			w := &nodev1.Welcome{}
			if err := proto.Unmarshal(body, w); err != nil {
				return good, err
			}
			j.welcome = w
			welcome(w)
		case recordAssignment:
			a := &nodev1.Assignment{}
			if err := proto.Unmarshal(body, a); err != nil {
				return good, err
			}
			assignment(a)
		}
		good += int64(len(head)) + int64(n)
	}
}

func sum(kind byte, body []byte) uint32 {
	return crc32c.Update(crc32c.Sum([]byte{kind}), body)
}

func record(kind byte, m proto.Message) ([]byte, error) {
	body, err := proto.Marshal(m)
	if err != nil {
		return nil, err
	}
	b := make([]byte, 0, 9+len(body))
	b = append(b, kind)
	b = binary.BigEndian.AppendUint32(b, uint32(len(body)))
	b = binary.BigEndian.AppendUint32(b, sum(kind, body))
	return append(b, body...), nil
}

func (j *journal) append(a *nodev1.Assignment) error { return j.write(recordAssignment, a) }

// keepWelcome makes the masters' addresses and the cluster's settings durable.
func (j *journal) keepWelcome(w *nodev1.Welcome) error {
	if proto.Equal(w, j.welcome) {
		return nil
	}
	j.welcome = w
	return j.write(recordWelcome, w)
}

func (j *journal) write(kind byte, m proto.Message) error {
	b, err := record(kind, m)
	if err != nil {
		return err
	}
	if _, err := j.f.Write(b); err != nil {
		// Half a record would hide those after it.
		_ = j.f.Truncate(j.size)
		_, _ = j.f.Seek(j.size, io.SeekStart)
		return err
	}
	j.size += int64(len(b))
	return j.f.Sync()
}

// long says that most of the file is history.
func (j *journal) long() bool { return j.size > minRewrite && j.size > 2*j.base }

// rewrite replaces the file by one full assignment.
func (j *journal) rewrite(full *nodev1.Assignment) error {
	tmp := j.path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	size, err := j.writeAll(f, full)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = os.Rename(tmp, j.path)
	}
	if err != nil {
		f.Close()
		os.Remove(tmp)
		return err
	}
	if d, err := os.Open(filepath.Dir(j.path)); err == nil {
		_ = d.Sync()
		d.Close()
	}
	j.f.Close()
	j.f, j.size, j.base = f, size, size
	return nil
}

func (j *journal) writeAll(f *os.File, full *nodev1.Assignment) (int64, error) {
	var all []byte
	if j.welcome != nil {
		b, err := record(recordWelcome, j.welcome)
		if err != nil {
			return 0, err
		}
		all = b
	}
	b, err := record(recordAssignment, full)
	if err != nil {
		return 0, err
	}
	all = append(all, b...)
	_, err = f.Write(all)
	return int64(len(all)), err
}

func (j *journal) close() {
	if err := j.f.Close(); err != nil && !errors.Is(err, fs.ErrClosed) {
		slog.Warn("close assignments", "err", err)
	}
}
