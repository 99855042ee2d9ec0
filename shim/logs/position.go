package logs

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/cridock/cridock/internal/beneath"
)

// position says how far a container's log has been converted to CRI form: the
// output for everything in Docker's log before offset ends at byte base of the CRI
// log file. Anything in the CRI file beyond base was written after the position
// was stored.
type position struct {
	// offset counts the consumed bytes of one of Docker's files. An inode number
	// does not identify the file: Docker deletes and creates files in quick
	// succession, and numbers are reused at once. The sumLen bytes before offset do,
	// as they end in a record's time in nanoseconds; sum is their CRC-32.
	offset int64
	sum    uint32
	sumLen int

	criInode uint64
	base     int64 // negative: this much of the following output went to an earlier CRI file

	last time.Time // time of the last record; zero: none yet
	same int       // API source only: how many records had that time
}

// sumSpan is how much of Docker's log identifies a position; the last 60 bytes or
// so are the end of a record, including its time in nanoseconds.
const sumSpan = 64

// maxPosition keeps the record within one page, which a single write fills
// completely or not at all if the process is killed.
const maxPosition = 512

const positionFormat = "cridock-log-position-1 %d %d %d %d %d %d %d"

var errNoPosition = errors.New("no position")

// consumed reports whether the position is after a record in Docker's files.
func (p *position) consumed() bool { return p.sumLen > 0 }

// matches reports whether f is the file the position is in.
func (p *position) matches(f io.ReaderAt) bool {
	if !p.consumed() {
		return false
	}
	var buf [sumSpan]byte
	tail := buf[:p.sumLen]
	if _, err := f.ReadAt(tail, p.offset-int64(p.sumLen)); err != nil {
		return false
	}
	return crc32.ChecksumIEEE(tail) == p.sum
}

// advance moves the position past the bytes consumed at offset from.
func (p *position) advance(from int64, consumed []byte) {
	p.offset = from + int64(len(consumed))
	tail := consumed[max(0, len(consumed)-sumSpan):]
	p.sum, p.sumLen = crc32.ChecksumIEEE(tail), len(tail)
}

// encode returns the record as a line of text that ends in its checksum.
func (p *position) encode() []byte {
	var last int64
	if !p.last.IsZero() {
		last = p.last.UnixNano()
	}
	line := fmt.Appendf(make([]byte, 0, 256), positionFormat, p.offset, p.sum, p.sumLen,
		p.criInode, p.base, last, p.same)
	return fmt.Appendf(line, " %08x\n", crc32.ChecksumIEEE(line))
}

// decodePosition returns errNoPosition for anything that encode did not write.
func decodePosition(data []byte) (position, error) {
	line, _, _ := bytes.Cut(data, []byte("\n"))
	at := bytes.LastIndexByte(line, ' ')
	if at < 0 || string(line[at+1:]) != fmt.Sprintf("%08x", crc32.ChecksumIEEE(line[:at])) {
		return position{}, errNoPosition
	}
	var p position
	var last int64
	_, err := fmt.Sscanf(string(line[:at]), positionFormat, &p.offset, &p.sum, &p.sumLen,
		&p.criInode, &p.base, &last, &p.same)
	if err != nil || p.sumLen < 0 || p.sumLen > sumSpan || p.offset < int64(p.sumLen) {
		return position{}, errNoPosition
	}
	if last != 0 {
		p.last = time.Unix(0, last).UTC()
	}
	return p, nil
}

// positionFile keeps the position on disk. It is overwritten in place: a shorter
// record leaves old bytes after its line feed, which are not read.
type positionFile struct{ f *os.File }

// openPosition opens or creates the file and returns its position, or errNoPosition
// with a usable file if it holds none.
func openPosition(path string) (*positionFile, position, error) {
	root, name := beneath.Root(filepath.Dir(path)), filepath.Base(path)
	f, err := root.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		if err = root.MkdirAll(".", 0o700); err == nil {
			f, err = root.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
		}
	}
	if err != nil {
		return nil, position{}, fmt.Errorf("open log position: %w", err)
	}
	var buf [maxPosition]byte
	n, err := f.ReadAt(buf[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, position{}, errors.Join(fmt.Errorf("read log position: %w", err), f.Close())
	}
	p, err := decodePosition(buf[:n])
	return &positionFile{f: f}, p, err
}

// removePosition removes a position file; a missing one is success.
func removePosition(path string) error {
	err := beneath.Root(filepath.Dir(path)).Remove(filepath.Base(path))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove log position: %w", err)
	}
	return nil
}

func (pf *positionFile) store(p position) error {
	if _, err := pf.f.WriteAt(p.encode(), 0); err != nil {
		return fmt.Errorf("write log position: %w", err)
	}
	return nil
}

func (pf *positionFile) close() error { return pf.f.Close() }
