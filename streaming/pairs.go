package streaming

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/klog/v2"
	"k8s.io/streaming/pkg/httpstream"
)

// maxHalfPairs bounds the streams of one client that wait for their other half.
const maxHalfPairs = 1000

var errStreamPair = errors.New("the client opens streams that do not belong together")

// streamPairs brings together the two streams, for data and errors, that a client
// opens for each connection to its pod. cri-streaming can do that too, but it
// leaves goroutines behind when a client goes while it opens streams.
type streamPairs struct {
	f *forwarder
	// abort ends the client's connection, for a client that breaks the protocol.
	abort   func()
	timeout time.Duration

	mu      sync.Mutex
	conn    httpstream.Connection
	waiting map[string]*streamPair
	closed  bool
}

// streamPair is complete with both streams.
type streamPair struct {
	port       int32
	data, errs *openedStream
	expiry     *time.Timer
}

// add implements [httpstream.NewStreamHandler]. It never blocks: the connection
// could not be closed then.
func (p *streamPairs) add(stream httpstream.Stream, replied <-chan struct{}) error {
	h, err := parsePortHeaders(stream.Headers(), stream.Identifier())
	if err == nil {
		err = p.join(h, &openedStream{stream, replied})
	}
	if err != nil {
		p.abort()
	}
	return err
}

func (p *streamPairs) join(h portHeaders, stream *openedStream) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	pair := p.waiting[h.requestID]
	if pair == nil {
		if p.closed || len(p.waiting) >= maxHalfPairs {
			return errStreamPair
		}
		pair = &streamPair{expiry: time.AfterFunc(p.timeout, func() { p.expire(h.requestID) })}
		p.waiting[h.requestID] = pair
	}
	half := &pair.errs
	if h.isData {
		half, pair.port = &pair.data, h.port
	}
	if *half != nil {
		return errStreamPair
	}
	*half = stream
	if pair.data == nil || pair.errs == nil {
		return nil
	}
	pair.expiry.Stop()
	delete(p.waiting, h.requestID)
	go p.forward(pair)
	return nil
}

// expire gives up a pair that its client does not complete.
func (p *streamPairs) expire(requestID string) {
	p.mu.Lock()
	pair := p.waiting[requestID]
	delete(p.waiting, requestID)
	p.mu.Unlock()
	if pair == nil {
		return
	}
	klog.FromContext(p.f.ctx).V(2).Info("Port-forward client opened one stream of two", "sandboxID", p.f.sandboxID, "timeout", p.timeout)
	p.reset(pair)
}

// close gives up all pairs that are not complete.
func (p *streamPairs) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, pair := range p.waiting {
		pair.expiry.Stop()
	}
}

// forward serves a complete pair.
func (p *streamPairs) forward(pair *streamPair) {
	for _, stream := range []*openedStream{pair.data, pair.errs} {
		select {
		case <-stream.replied:
		case <-p.f.ctx.Done():
			return
		}
	}
	if err := p.f.forward(pair.port, pair.data); err != nil {
		_, _ = io.WriteString(pair.errs, err.Error())
		// kubectl takes this as the end of the connection, and keeps the others.
		p.reset(pair)
		return
	}
	_, _ = pair.data.Close(), pair.errs.Close()
	p.conn.RemoveStreams(pair.data, pair.errs)
}

// reset ends the streams of a pair in both directions.
func (p *streamPairs) reset(pair *streamPair) {
	for _, stream := range []*openedStream{pair.data, pair.errs} {
		if stream != nil {
			_ = stream.Reset()
			p.conn.RemoveStreams(stream)
		}
	}
}

// portHeaders are what a client says of a stream.
type portHeaders struct {
	requestID string
	port      int32
	isData    bool
}

// parsePortHeaders reads the headers of a stream with a number. A client that
// names no request opens the error stream first and the data stream next.
func parsePortHeaders(headers http.Header, stream uint32) (portHeaders, error) {
	text := headers.Get(portforward.PortHeader)
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 {
		return portHeaders{}, fmt.Errorf("header %s: %q is no port", portforward.PortHeader, text)
	}
	h := portHeaders{requestID: headers.Get(portforward.PortForwardRequestIDHeader), port: int32(port)}
	switch kind := headers.Get(portforward.StreamType); kind {
	case portforward.StreamTypeData:
		h.isData = true
	case portforward.StreamTypeError:
	default:
		return portHeaders{}, fmt.Errorf("header %s: %q is neither %s nor %s", portforward.StreamType, kind, portforward.StreamTypeData, portforward.StreamTypeError)
	}
	if h.requestID == "" {
		first := int64(stream)
		if h.isData {
			first -= 2
		}
		h.requestID = strconv.FormatInt(first, 10)
	}
	return h, nil
}
