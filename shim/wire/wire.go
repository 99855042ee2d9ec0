// Package wire sends responses of which the larger part is already encoded.
//
// The kubelet requests the same lists and statuses over and over, and encoding
// their maps is most of the cost of a response. So each object is encoded once, when
// it is read from Docker. A [Response] puts those bytes into a message, and the
// [Codec] sends it; clients cannot tell it from any other response.
//
// The package knows nothing of the CRI: its callers name the fields by number.
package wire

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	protocodec "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// Response is a message to send. It is not for concurrent use.
type Response struct {
	rest   proto.Message
	fields []field
	size   int // of the encoded fields, in bytes
	err    error
}

type field struct {
	number  protowire.Number
	content []byte
}

// New returns a response with the fields of rest, which must outlive it unchanged.
func New(rest proto.Message) *Response { return &Response{rest: rest} }

// Add adds an encoded message as the value of a field of message type, or as a
// further element of a repeated one. The content is not copied: it must not change.
// Nil stands for a message that could not be encoded: then the response cannot be
// sent either. (An empty message is encoded as an empty slice.)
func (r *Response) Add(number protowire.Number, content []byte) {
	if content == nil {
		r.err = fmt.Errorf("field %d: the message cannot be encoded", number)
	}
	r.fields = append(r.fields, field{number, content})
	r.size += Size(number, content)
}

// Size returns how many bytes an encoded message takes as a field.
func Size(number protowire.Number, content []byte) int {
	return protowire.SizeTag(number) + protowire.SizeBytes(len(content))
}

// appendTo appends the wire form. Call it right after proto.Size of rest.
func (r *Response) appendTo(b []byte) ([]byte, error) {
	b, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(b, r.rest)
	if err != nil {
		return nil, err
	}
	for _, f := range r.fields {
		b = protowire.AppendTag(b, f.number, protowire.BytesType)
		b = protowire.AppendBytes(b, f.content)
	}
	return b, nil
}

// Codec is gRPC's codec for protobuf messages that also sends a [*Response].
type Codec struct{ encoding.CodecV2 }

// NewCodec returns a codec under the name of gRPC's own, for
// [google.golang.org/grpc.ForceServerCodecV2].
func NewCodec() Codec { return Codec{encoding.GetCodecV2(protocodec.Name)} }

// Marshal returns the wire form of a [*Response] or of any protobuf message.
func (c Codec) Marshal(v any) (mem.BufferSlice, error) {
	r, ok := v.(*Response)
	if !ok {
		return c.CodecV2.Marshal(v)
	}
	if r.err != nil {
		return nil, r.err
	}
	size := proto.Size(r.rest) + r.size
	if mem.IsBelowBufferPoolingThreshold(size) {
		b, err := r.appendTo(make([]byte, 0, size))
		if err != nil {
			return nil, err
		}
		return mem.BufferSlice{mem.SliceBuffer(b)}, nil
	}
	pool := mem.DefaultBufferPool()
	buf := pool.Get(size)
	if _, err := r.appendTo((*buf)[:0]); err != nil {
		pool.Put(buf)
		return nil, err
	}
	return mem.BufferSlice{mem.NewBuffer(buf, pool)}, nil
}
