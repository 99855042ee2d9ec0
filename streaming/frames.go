package streaming

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
)

// The SPDY and WebSocket libraries hold whole frames in memory, SPDY's even
// hundreds of them while a process does not read its input. A frame can have
// 16 MiB, a message 32 MiB. The readers here sit in front of the libraries and
// forward the same bytes in small frames.

const (
	// maxPiece bounds the data of one forwarded frame, in bytes.
	maxPiece = 32 << 10
	// maxControl bounds a SPDY control frame, in bytes. One that opens a stream has
	// 100 to 200 bytes, which decompress to a thousand times as much at worst.
	maxControl = 1 << 10
)

var errProtocol = errors.New("the client violates the protocol")

// spdyUpgrade is a ResponseWriter whose Hijack returns a connection for SPDY.
type spdyUpgrade struct {
	http.ResponseWriter
	abort func()
}

// Hijack implements [http.Hijacker].
func (u spdyUpgrade) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return hijackFrames(u.ResponseWriter, &frameReader{format: &spdyFormat{}, abort: u.abort})
}

// webSocketUpgrade is a ResponseWriter whose Hijack returns a connection for
// WebSocket messages that begin with a channel number.
type webSocketUpgrade struct {
	http.ResponseWriter
	abort func()
}

// Hijack implements [http.Hijacker].
func (u webSocketUpgrade) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return hijackFrames(u.ResponseWriter, &frameReader{format: &channelFormat{}, abort: u.abort})
}

func hijackFrames(w http.ResponseWriter, f *frameReader) (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return nil, nil, err
	}
	f.r = rw.Reader
	return conn, bufio.NewReadWriter(bufio.NewReader(f), rw.Writer), nil
}

// frameReader reads frames and forwards them in pieces.
type frameReader struct {
	r      *bufio.Reader
	format frameFormat
	// abort closes the connection of a client that violates the protocol.
	abort func()

	head []byte // of a piece, not forwarded yet
	left int    // bytes of the piece's data after it
	err  error
}

// frameFormat is the frame format of one protocol.
type frameFormat interface {
	// next returns the head of the next piece and the number of data bytes that
	// follow, which may be 0. After the last piece of a frame it reads the head of
	// the next frame. The error is io.EOF if there is none, and errProtocol if the
	// frame is not allowed.
	next(r *bufio.Reader) (head []byte, data int, err error)
	// decode converts data of the piece, in place, from what was read to what is
	// forwarded.
	decode(data []byte)
}

// Read implements [io.Reader].
func (f *frameReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if len(f.head) == 0 && f.left == 0 {
		if f.err != nil {
			return 0, f.err
		}
		f.head, f.left, f.err = f.format.next(f.r)
		if f.err != nil {
			f.head, f.left = nil, 0
			if errors.Is(f.err, errProtocol) {
				f.abort()
			}
			return 0, f.err
		}
	}
	if len(f.head) > 0 {
		n := copy(p, f.head)
		f.head = f.head[n:]
		return n, nil
	}
	n, err := f.r.Read(p[:min(len(p), f.left)])
	f.format.decode(p[:n])
	f.left -= n
	return n, err
}

// The types of SPDY's control frames that clients send.
const (
	spdySynStream = 1
	spdyRstStream = 3
	spdySettings  = 4
	spdyPing      = 6
	spdyGoAway    = 7
	spdyWindow    = 9
)

// spdyFormat is SPDY 3.1: a head of 8 bytes, with a length of 24 bits at its end.
type spdyFormat struct {
	// stream, flags and rest describe a data frame that is forwarded in pieces.
	stream uint32
	flags  byte
	rest   int
	// last is the ID of the last stream that was opened.
	last uint32
}

const spdyHead = 8

func (s *spdyFormat) decode([]byte) {}

func (s *spdyFormat) next(r *bufio.Reader) ([]byte, int, error) {
	if s.rest > 0 {
		return s.piece()
	}
	head := make([]byte, spdyHead)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, 0, err
	}
	first, length := binary.BigEndian.Uint32(head), int(binary.BigEndian.Uint32(head[4:])&0xffffff)
	if first>>31 == 0 {
		s.stream, s.flags, s.rest = first, head[4], length
		return s.piece()
	}
	if length > maxControl {
		return nil, 0, errProtocol
	}
	switch first & 0xffff {
	case spdySynStream:
		if err := s.open(r, length); err != nil {
			return nil, 0, err
		}
	case spdyRstStream, spdySettings, spdyPing, spdyGoAway, spdyWindow:
	default: // only servers send headers and replies
		return nil, 0, errProtocol
	}
	return head, length, nil
}

// piece returns the head of the data frame's next piece. Only the last piece has
// the frame's flags, which can mark the end of the stream.
func (s *spdyFormat) piece() ([]byte, int, error) {
	n := min(s.rest, maxPiece)
	s.rest -= n
	head := make([]byte, spdyHead)
	binary.BigEndian.PutUint32(head, s.stream)
	binary.BigEndian.PutUint32(head[4:], uint32(n)) //nolint:gosec // it is at most maxPiece
	if s.rest == 0 {
		head[4] = s.flags
	}
	return head, n, nil
}

// open checks the ID of a new stream: the library answers each invalid one in its
// own goroutine, and those pile up if the client does not read.
func (s *spdyFormat) open(r *bufio.Reader, length int) error {
	if length < 10 {
		return errProtocol
	}
	b, err := r.Peek(4)
	if err != nil {
		return err
	}
	id := binary.BigEndian.Uint32(b)
	if id>>31 != 0 || id%2 == 0 || id <= s.last {
		return errProtocol
	}
	s.last = id
	return nil
}

// channelFormat is WebSocket with messages of one frame each that begin with their
// channel number. A piece of a message is a message itself; pieces of base64 data
// can be decoded alone.
type channelFormat struct {
	opcode  byte
	channel byte
	mask    [4]byte
	at      int // in the mask
	rest    uint64
}

// Opcodes and bits of a WebSocket frame's head (RFC 6455, 5.2).
const (
	wsBinary  = 2
	wsControl = 8
	wsFinal   = 0x80
	wsMasked  = 0x80
	ws16Bits  = 126
	ws64Bits  = 127
)

func (c *channelFormat) decode(data []byte) {
	for i := range data {
		data[i] ^= c.mask[c.at%4]
		c.at++
	}
}

func (c *channelFormat) next(r *bufio.Reader) ([]byte, int, error) {
	if c.rest > 0 {
		return c.piece()
	}
	var start [2]byte
	if _, err := io.ReadFull(r, start[:]); err != nil {
		return nil, 0, err
	}
	length, err := wsLength(r, start[1]&^wsMasked)
	if err != nil {
		return nil, 0, err
	}
	if start[1]&wsMasked == 0 {
		return nil, 0, errProtocol
	}
	if _, err := io.ReadFull(r, c.mask[:]); err != nil {
		return nil, 0, err
	}
	c.at, c.opcode = 0, start[0]&0xf
	if c.opcode >= wsControl || length == 0 {
		if length >= ws16Bits {
			return nil, 0, errProtocol
		}
		return wsHead(start[0], length), int(length), nil
	}
	b, err := r.ReadByte()
	if err != nil {
		return nil, 0, err
	}
	one := []byte{b}
	c.decode(one)
	c.channel, c.rest = one[0], length-1
	return c.piece()
}

// piece returns the head of the message's next piece: a message that begins with
// the same channel.
func (c *channelFormat) piece() ([]byte, int, error) {
	n := min(c.rest, maxPiece)
	c.rest -= n
	if c.opcode == 0 {
		c.opcode = wsBinary // the library takes continuations as messages too
	}
	return append(wsHead(wsFinal|c.opcode, n+1), c.channel), int(n), nil
}

// wsLength returns a frame's length: short, the 7 bits in the head, or the longer
// field that short announces.
func wsLength(r io.Reader, short byte) (uint64, error) {
	var b [8]byte
	var at int
	switch short {
	case ws16Bits:
		at = 6
	case ws64Bits:
		at = 0
	default:
		return uint64(short), nil
	}
	if _, err := io.ReadFull(r, b[at:]); err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint64(b[:]), nil
}

// wsHead returns the head of a frame of at most 64 KiB with a mask of zeros.
func wsHead(first byte, length uint64) []byte {
	head := []byte{first, wsMasked | byte(length)} //nolint:gosec // replaced below where it does not fit
	if length >= ws16Bits {
		head[1] = wsMasked | ws16Bits
		head = binary.BigEndian.AppendUint16(head, uint16(length)) //nolint:gosec // at most 64 KiB
	}
	return append(head, 0, 0, 0, 0)
}
