package streaming

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/moby/spdystream"
	"github.com/moby/spdystream/spdy"
	"k8s.io/client-go/rest"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream"

	"github.com/cridock/cridock/internal/leakcheck"
)

func restConfig(u *url.URL) *rest.Config { return &rest.Config{Host: u.Host} }

// passOn returns what a frameReader passes on from a connection.
func passOn(format frameFormat, in []byte) (out []byte, aborted bool, err error) {
	f := &frameReader{r: bufio.NewReader(bytes.NewReader(in)), format: format, abort: func() { aborted = true }}
	out, err = io.ReadAll(f)
	return out, aborted, err
}

func dataFrame(stream uint32, flags byte, data []byte) []byte {
	head := binary.BigEndian.AppendUint32(nil, stream)
	head = binary.BigEndian.AppendUint32(head, uint32(len(data)))
	head[4] = flags
	return append(head, data...)
}

func controlFrame(kind uint16, payload []byte) []byte {
	head := binary.BigEndian.AppendUint16(nil, 0x8003)
	head = binary.BigEndian.AppendUint16(head, kind)
	head = binary.BigEndian.AppendUint32(head, uint32(len(payload)))
	return append(head, payload...)
}

func TestSPDYFramesAreCutUp(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789abcdef"), 16<<10) // 256 KiB
	var want []byte
	for rest := data; ; {
		n := min(len(rest), maxPiece)
		flags := byte(0)
		if n == len(rest) {
			flags = 1
		}
		want = append(want, dataFrame(3, flags, rest[:n])...)
		if rest = rest[n:]; len(rest) == 0 {
			break
		}
	}
	ping := controlFrame(spdyPing, []byte{0, 0, 0, 1})
	in := append(append(append([]byte{}, ping...), dataFrame(3, 1, data)...), dataFrame(5, 1, nil)...)
	want = append(append(append([]byte{}, ping...), want...), dataFrame(5, 1, nil)...)
	got, aborted, err := passOn(&spdyFormat{}, in)
	if err != nil || aborted || !bytes.Equal(got, want) {
		t.Errorf("%d bytes instead of %d, aborted %t, %v", len(got), len(want), aborted, err)
	}
}

func TestSPDYProtocolIsKept(t *testing.T) {
	open := func(id uint32) []byte {
		return controlFrame(spdySynStream, append(binary.BigEndian.AppendUint32(nil, id), make([]byte, 10)...))
	}
	for name, frame := range map[string][]byte{
		"long control frame":     controlFrame(spdyPing, make([]byte, maxControl+1)),
		"headers":                controlFrame(8, make([]byte, 20)),
		"reply":                  controlFrame(2, make([]byte, 20)),
		"unknown":                controlFrame(77, nil),
		"short stream":           controlFrame(spdySynStream, make([]byte, 4)),
		"the server's stream":    open(2),
		"stream number is twice": append(open(5), open(5)...),
		"stream number falls":    append(open(5), open(3)...),
	} {
		if _, aborted, err := passOn(&spdyFormat{}, frame); !aborted || !errors.Is(err, errProtocol) {
			t.Errorf("%s: aborted %t, %v", name, aborted, err)
		}
	}
	if _, aborted, err := passOn(&spdyFormat{}, append(open(1), open(3)...)); aborted || err != nil {
		t.Errorf("two streams: aborted %t, %v", aborted, err)
	}
}

// wsFrame is a masked frame.
func wsFrame(first byte, data []byte) []byte {
	head := []byte{first, wsMasked | ws64Bits}
	head = binary.BigEndian.AppendUint64(head, uint64(len(data)))
	mask := []byte{1, 2, 3, 4}
	head = append(head, mask...)
	for i, b := range data {
		head = append(head, b^mask[i%4])
	}
	return head
}

// messages parses the frames of a connection, each preceded by its first byte.
func messages(t *testing.T, stream []byte) (out [][]byte) {
	t.Helper()
	r := bytes.NewReader(stream)
	for r.Len() > 0 {
		var start [2]byte
		_, _ = io.ReadFull(r, start[:])
		length, err := wsLength(r, start[1]&^wsMasked)
		if err != nil {
			t.Fatal(err)
		}
		var mask [4]byte
		_, _ = io.ReadFull(r, mask[:])
		data := make([]byte, length)
		if _, err := io.ReadFull(r, data); err != nil {
			t.Fatal(err)
		}
		if mask != [4]byte{} {
			t.Fatalf("mask %x", mask)
		}
		out = append(out, append([]byte{start[0]}, data...))
	}
	return out
}

func TestWebSocketMessagesAreCutUp(t *testing.T) {
	for _, size := range []int{0, 1, 2, 125, 126, maxPiece, maxPiece + 1, maxPiece + 2, 5*maxPiece + 7} {
		message := make([]byte, size)
		for i := range message {
			message[i] = byte(i * 7)
		}
		if size > 0 {
			message[0] = 9
		}
		in := append(wsFrame(wsFinal|wsBinary, message), wsFrame(wsFinal|9, []byte("ping"))...)
		out, aborted, err := passOn(&channelFormat{}, in)
		if err != nil || aborted {
			t.Fatalf("%d bytes: aborted %t, %v", size, aborted, err)
		}
		got := messages(t, out)
		var data []byte
		for _, m := range got[:len(got)-1] {
			if len(m) > 2+maxPiece || m[0] != wsFinal|wsBinary || size > 0 && m[1] != 9 {
				t.Fatalf("%d bytes: a message of %d that begins with %x", size, len(m), m[:min(2, len(m))])
			}
			if size > 0 {
				data = append(data, m[2:]...)
			}
		}
		if size > 0 && !bytes.Equal(data, message[1:]) {
			t.Errorf("%d bytes: %d came through", size, len(data)+1)
		}
		if last := got[len(got)-1]; string(last[1:]) != "ping" {
			t.Errorf("%d bytes: the ping became %q", size, last)
		}
	}
	for name, frame := range map[string][]byte{
		"long ping": wsFrame(wsFinal|9, make([]byte, 200)),
		"no mask":   {wsFinal | wsBinary, 1, 0},
	} {
		if _, aborted, err := passOn(&channelFormat{}, frame); !aborted || !errors.Is(err, errProtocol) {
			t.Errorf("%s: aborted %t, %v", name, aborted, err)
		}
	}
}

func FuzzFrames(f *testing.F) {
	f.Add(dataFrame(3, 1, make([]byte, 10)), true)
	f.Add(controlFrame(spdyPing, make([]byte, 4)), true)
	f.Add(wsFrame(wsFinal|wsBinary, make([]byte, 10)), false)
	f.Add([]byte{0x82, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 1}, false)
	f.Fuzz(func(t *testing.T, in []byte, isSPDY bool) {
		format := frameFormat(&channelFormat{})
		if isSPDY {
			format = &spdyFormat{}
		}
		out, aborted, err := passOn(format, in)
		if aborted != errors.Is(err, errProtocol) {
			t.Fatalf("aborted %t, %v", aborted, err)
		}
		// A piece's header is at most 9 bytes long.
		if limit := len(in) + 9*(1+len(in)/2); len(out) > limit {
			t.Errorf("%d bytes became %d", len(in), len(out))
		}
		if err == nil && isSPDY {
			again, _, err := passOn(&spdyFormat{}, out)
			if err != nil || !bytes.Equal(again, out) {
				t.Errorf("what was passed on is not passed on again: %v", err)
			}
		}
	})
}

func FuzzPortHeaders(f *testing.F) {
	f.Add("80", "data", "7", uint32(3))
	f.Add("65535", "error", "", uint32(1))
	f.Add("0x50", "resize", "", uint32(0))
	f.Fuzz(func(t *testing.T, port, kind, id string, stream uint32) {
		h := http.Header{}
		h.Set("port", port)
		h.Set("streamType", kind)
		h.Set("requestID", id)
		got, err := parsePortHeaders(h, stream)
		if err != nil {
			return
		}
		if got.port < 1 || got.port > 65535 || got.requestID == "" || got.isData != (kind == "data") || !got.isData && kind != "error" {
			t.Errorf("%+v", got)
		}
	})
}

// A client with a token cannot fill memory with frames that no process reads.
func TestBigFramesAreNotHeld(t *testing.T) {
	began := make(chan struct{})
	s := start(t, Config{}, &fakeRuntime{exec: func(ctx context.Context, _ string, _ []string, s Streams) error {
		close(began)
		<-ctx.Done()
		return nil
	}})
	conn := rawSPDY(t, s, &runtimeapi.ExecRequest{ContainerId: "c", Cmd: []string{"x"}, Stdin: true, Stdout: true})
	client, err := spdystream.NewConnection(readerConn{conn, skipHead(t, conn)}, false)
	if err != nil {
		t.Fatal(err)
	}
	go client.Serve(spdystream.NoOpStreamHandler)
	var streams []*spdystream.Stream
	for _, kind := range []string{"stdin", "stdout", "error"} {
		stream, err := client.CreateStream(http.Header{"Streamtype": {kind}}, nil, false)
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.WaitTimeout(20 * time.Second); err != nil {
			t.Fatal(err)
		}
		streams = append(streams, stream)
	}
	<-began
	_ = conn.SetWriteDeadline(time.Now().Add(3 * time.Second))
	big := make([]byte, 1<<24-1)
	for err == nil {
		for _, stream := range streams {
			if _, err = stream.Write(big); err != nil {
				break
			}
		}
	}
	runtime.GC()
	var after runtime.MemStats
	runtime.ReadMemStats(&after)
	if after.HeapInuse > 100<<20 {
		t.Errorf("%d MiB are held", after.HeapInuse>>20)
	}
}

// A client that opens more streams than the protocol has leaves nothing behind.
func TestExtraStreams(t *testing.T) {
	quiet := leakcheck.Now(t)
	t.Run("sessions", func(t *testing.T) {
		s := start(t, Config{}, &fakeRuntime{exec: func(ctx context.Context, _ string, _ []string, _ Streams) error {
			<-ctx.Done()
			return nil
		}})
		for _, kinds := range []string{"error stdout stdout", "error stdout unknown", "unknown", "error error"} {
			for range 5 {
				conn := rawSPDY(t, s, &runtimeapi.ExecRequest{ContainerId: "c", Cmd: []string{"x"}, Stdout: true})
				client, err := spdystream.NewConnection(readerConn{conn, skipHead(t, conn)}, false)
				if err != nil {
					t.Fatal(err)
				}
				done := make(chan struct{})
				go func() { defer close(done); client.Serve(spdystream.NoOpStreamHandler) }()
				for _, kind := range strings.Fields(kinds) {
					_, _ = client.CreateStream(http.Header{"Streamtype": {kind}}, nil, false)
				}
				select {
				case <-done:
				case <-time.After(20 * time.Second):
					t.Fatalf("%s: the connection stays open", kinds)
				}
				_ = conn.Close()
			}
		}
	})
	quiet.Await(t, time.Minute)
}

// unreplied is a stream whose client could not be told that it is open.
type unreplied struct {
	httpstream.Stream
	t       *testing.T
	headers http.Header
}

func (s unreplied) Headers() http.Header            { return s.headers }
func (unreplied) SendReply(http.Header, bool) error { return io.EOF }

func (s unreplied) Write([]byte) (int, error) {
	s.t.Fatal("written: spdystream would never return")
	return 0, io.EOF
}

// Nothing is written to a stream whose reply could not be sent.
func TestUnrepliedStream(t *testing.T) {
	replied := make(chan struct{})
	close(replied)
	streams := &callStreams{wanted: []string{remotecommand.StreamTypeError}, abort: func() {}, complete: make(chan struct{})}
	stream := unreplied{t: t, headers: http.Header{"Streamtype": {remotecommand.StreamTypeError}}}
	if err := streams.add(stream, replied); err != nil {
		t.Fatal(err)
	}
	if err := streams.wait(t.Context(), time.Minute); !errors.Is(err, io.EOF) {
		t.Errorf("wait: %v", err)
	}
	p := &streamPairs{f: &forwarder{ctx: t.Context()}}
	p.forward(&streamPair{data: &openedStream{stream, replied}, errs: &openedStream{stream, replied}})
}

// A client that disconnects while it opens streams to ports leaves nothing
// behind.
func TestPortForwardGoesWhileOpening(t *testing.T) {
	quiet := leakcheck.Now(t)
	t.Run("sessions", func(t *testing.T) {
		s := start(t, Config{}, podIn(""))
		for range 20 {
			resp, err := s.PortForward(&runtimeapi.PortForwardRequest{PodSandboxId: "pod"})
			if err != nil {
				t.Fatal(err)
			}
			u := parse(t, resp.Url)
			conn := flood(t, u.Host, "POST "+u.Path+" HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: portforward.k8s.io\r\n\r\n", 1)[0]
			client, err := spdy.NewFramer(conn, skipHead(t, conn))
			if err != nil {
				t.Fatal(err)
			}
			for i := range 20 {
				frame := &spdy.SynStreamFrame{StreamId: spdy.StreamId(2*i + 1), Headers: http.Header{
					"Streamtype": {"data"}, "Port": {"80"}, "Requestid": {strings.Repeat("x", i+1)},
				}}
				if err := client.WriteFrame(frame); err != nil {
					t.Fatal(err)
				}
			}
			_ = conn.Close()
		}
	})
	quiet.Await(t, time.Minute)
}

// readerConn is a connection of which a part has already been read.
type readerConn struct {
	net.Conn
	r io.Reader
}

func (c readerConn) Read(p []byte) (int, error) { return c.r.Read(p) }

// skipHead reads the rest of the response header.
func skipHead(t *testing.T, conn net.Conn) io.Reader {
	t.Helper()
	r := bufio.NewReader(conn)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if line == "\r\n" {
			return r
		}
	}
}
