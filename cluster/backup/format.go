package backup

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/kontiki/kontiki/fsm"
	"github.com/kontiki/kontiki/internal/crc32c"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/internal/sealed"
)

// A backup file is the line magic, the length of the header as 4 bytes (little endian), the header (Info as JSON), the CRC-32C of
// length and header as 4 bytes, and then a snapshot (see package fsm), which has its own checksums. Secrets are encrypted in it: to
// restore them one needs the identity.json of a master of that time.
const (
	magic   = "KONTIKI-BACKUP 1\n"
	maxHead = 1 << 20
)

// ErrBad means that bytes are not a complete, undamaged backup.
var ErrBad = errors.New("this is not a complete, undamaged backup")

// ErrForeign means that a backup needs keys that this cluster does not have: it is of another cluster, or older than a rotation.
var ErrForeign = errors.New("the backup needs keys that this cluster does not have")

// Info is the content of a backup's header.
type Info struct {
	ClusterID string    `json:"clusterID"`
	Lineage   string    `json:"lineage"`
	Epoch     uint64    `json:"epoch"`
	CreatedAt time.Time `json:"createdAt"`
	Master    string    `json:"master"`
	Version   string    `json:"version"`
	Revision  uint64    `json:"revision"`
	Objects   uint64    `json:"objects"`
	// SecretKeys are the names and fingerprints of the keys that its Secrets are encrypted with, never the keys.
	SecretKeys []string `json:"secretKeys"`
}

// Save writes a backup of the present state, including every write that any master acknowledged before the call. It streams the
// backup and blocks no writes.
func (b *Backups) Save(ctx context.Context, w io.Writer) (Info, error) {
	if _, err := b.state.Consistent(ctx); err != nil {
		return Info{}, fmt.Errorf("save a backup: %w", err)
	}
	snapshot := b.state.Snapshot()
	epoch, _, err := EpochOf(snapshot.View())
	if err != nil {
		return Info{}, fmt.Errorf("save a backup: %w", err)
	}
	info := Info{
		ClusterID: b.o.ClusterID, Lineage: epoch.Lineage, Epoch: epoch.Number, CreatedAt: time.Now().UTC().Truncate(time.Second),
		Master: b.o.Name, Version: b.o.Version, Revision: snapshot.Info().Revision, Objects: snapshot.Info().Objects,
		SecretKeys: b.printsOf(sealed.Count(snapshot.View())),
	}
	if err := writeHead(w, info); err != nil {
		return info, fmt.Errorf("save a backup: %w", err)
	}
	if _, err := snapshot.WriteTo(&contextWriter{ctx, w}); err != nil {
		return info, fmt.Errorf("save a backup: %w", err)
	}
	return info, nil
}

// secretKeyPrints returns the fingerprints of the keys of Secrets: a name and the beginning of a hash. The keys are random, so a
// hash reveals nothing about them.
func (b *Backups) secretKeyPrints() []string {
	var prints []string
	for name, key := range b.o.SecretKeys() {
		sum := sha256.Sum256(append([]byte("kontiki secret key "), key...))
		prints = append(prints, fmt.Sprintf("%s@%x", name, sum[:6]))
	}
	slices.Sort(prints)
	return prints
}

// printsOf returns the fingerprints of those keys that encrypt a value, by the keys' names. A key that this master does not have is left out.
func (b *Backups) printsOf(used map[string]int) []string {
	return slices.DeleteFunc(b.secretKeyPrints(), func(print string) bool { return used[keyOf(print)] == 0 })
}

// keyOf returns the name of the key that a fingerprint is of.
func keyOf(print string) string {
	name, _, _ := strings.Cut(print, "@")
	return name
}

// NeedKeys returns this master's own backups that need keys of Secrets, by the keys' names, each list from the oldest to the newest. A
// backup whose header cannot be read cannot be restored, and needs none.
func (b *Backups) NeedKeys() map[string][]string {
	needed := map[string][]string{}
	for _, name := range files(b.o.Schedule.Dir, time.Now()) {
		file, err := os.Open(filepath.Join(b.o.Schedule.Dir, name))
		if err != nil {
			continue // it was just removed, being surplus
		}
		info, err := readHead(file)
		file.Close()
		if err != nil {
			continue
		}
		for _, print := range info.SecretKeys {
			needed[keyOf(print)] = append(needed[keyOf(print)], name)
		}
	}
	return needed
}

// contextWriter stops writing when its context ends.
type contextWriter struct {
	ctx context.Context
	w   io.Writer
}

func (w *contextWriter) Write(b []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	return w.w.Write(b)
}

func writeHead(w io.Writer, info Info) error {
	head, err := json.Marshal(info)
	if err != nil {
		return err
	}
	body := binary.LittleEndian.AppendUint32(nil, uint32(len(head)))
	body = append(body, head...)
	sum := crc32c.Sum(body)
	_, err = w.Write(binary.LittleEndian.AppendUint32(append([]byte(magic), body...), sum))
	return err
}

// readHead reads the header, up to the beginning of the snapshot.
func readHead(r io.Reader) (Info, error) {
	var info Info
	bad := func(err error) (Info, error) {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return info, fmt.Errorf("%w: its header: %w", ErrBad, err)
	}
	start := make([]byte, len(magic)+4)
	if _, err := io.ReadFull(r, start); err != nil {
		return bad(err)
	}
	if string(start[:len(magic)]) != magic {
		return bad(errors.New("it does not begin like a backup"))
	}
	size := binary.LittleEndian.Uint32(start[len(magic):])
	if size > maxHead {
		return bad(fmt.Errorf("it claims %d bytes", size))
	}
	head := make([]byte, size+4)
	if _, err := io.ReadFull(r, head); err != nil {
		return bad(err)
	}
	sum := crc32c.Update(crc32c.Sum(start[len(magic):]), head[:size])
	if sum != binary.LittleEndian.Uint32(head[size:]) {
		return bad(errors.New("its checksum does not match"))
	}
	if err := json.Unmarshal(head[:size], &info); err != nil {
		return bad(err)
	}
	return info, nil
}

// Read reads a backup to its end and checks all of it. If visit is not nil, it is called for every object, in order of key. Errors:
// ErrBad, visit's.
func Read(r io.Reader, visit func(*kv.Version) error) (Info, error) {
	buffered := bufio.NewReaderSize(r, 256<<10)
	info, err := readHead(buffered)
	if err != nil {
		return info, err
	}
	snapshot, err := fsm.ReadSnapshot(buffered, visit)
	switch {
	case errors.Is(err, fsm.ErrBadSnapshot):
		return info, fmt.Errorf("%w: its snapshot: %w", ErrBad, err)
	case err != nil:
		return info, err
	case snapshot.Revision != info.Revision || snapshot.Objects != info.Objects:
		return info, fmt.Errorf("%w: its header says revision %d with %d objects, its snapshot revision %d with %d",
			ErrBad, info.Revision, info.Objects, snapshot.Revision, snapshot.Objects)
	}
	return info, nil
}
