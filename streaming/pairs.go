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

// maxHalfPairs bounds the incomplete stream pairs of one client.
const maxHalfPairs = 1000

var errStreamPair = errors.New("the client's streams do not form pairs")

// streamPairs joins the two streams, for data and errors, that a client opens for
// each connection to its pod. cri-streaming can do that too, but leaves goroutines
// behind when a client disconnects while it opens streams.
type streamPairs struct {
	f *forwarder
	// abort closes the connection of a client that violates the protocol.
	abort   func()
	timeout time.Duration

	mu      sync.Mutex
	conn    httpstream.Connection
	waiting map[string]*streamPair
	closed  bool
}

// streamPair is a data stream and an error stream; it is complete with both.
type streamPair struct {
	port       int32
	data, errs *openedStream
	expiry     *time.Timer
}

// add implements [httpstream.NewStreamHandler]. It must not block: the connection
// could then not be closed.
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

// expire drops a pair that its client did not complete in time.
func (p *streamPairs) expire(requestID string) {
	p.mu.Lock()
	pair := p.waiting[requestID]
	delete(p.waiting, requestID)
	p.mu.Unlock()
	if pair == nil {
		return
	}
	klog.FromContext(p.f.ctx).V(2).Info("Port-forward client opened only one of two streams", "sandboxID", p.f.sandboxID, "timeout", p.timeout)
	p.reset(pair)
}

// close drops all incomplete pairs.
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
		if stream.await(p.f.ctx) != nil {
			return // the connection is closed, or about to be
		}
	}
	if err := p.f.forward(pair.port, pair.data); err != nil {
		_, _ = io.WriteString(pair.errs, err.Error())
		// kubectl closes only this connection and keeps the others.
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

// portHeaders are the headers of a stream.
type portHeaders struct {
	requestID string
	port      int32
	isData    bool
}

// parsePortHeaders parses the headers of a stream, whose ID is stream. A client
// without request IDs opens the error stream first and then the data stream.
func parsePortHeaders(headers http.Header, stream uint32) (portHeaders, error) {
	text := headers.Get(portforward.PortHeader)
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 {
		return portHeaders{}, fmt.Errorf("header %s: %q is not a port", portforward.PortHeader, text)
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
