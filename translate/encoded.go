package translate

import (
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Each object has its most requested messages in protobuf's wire form, made once
// when it is read: package shim/wire says why, and sends them. Callers must not
// change the bytes.

// encoded returns m in wire form; nil if that is impossible, which shim/wire reports
// when it is sent. Text from Docker is valid UTF-8, so it should not happen.
func encoded(m proto.Message) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		return nil
	}
	return b
}

// encodedContainer holds the messages of a container in wire form.
type encodedContainer struct{ item, status []byte }

// encode sets the encoded messages; c must not change afterwards.
func (c *Container) encode() *Container {
	c.encoded = encodedContainer{item: encoded(CRIContainer(c)), status: encoded(CRIContainerStatus(c))}
	return c
}

// WithResources returns a copy of c with r as the resources in force.
func (c *Container) WithResources(r *runtimeapi.LinuxContainerResources) *Container {
	out := *c
	out.Resources = r
	return out.encode()
}

// EncodedContainer returns [CRIContainer] in wire form. c must come from
// [ReadContainer].
func EncodedContainer(c *Container) []byte { return c.encoded.item }

// EncodedContainerStatus returns [CRIContainerStatus] in wire form, under the rules
// of [EncodedContainer].
func EncodedContainerStatus(c *Container) []byte { return c.encoded.status }

// encodedSandbox holds the list items of a sandbox in wire form.
type encodedSandbox struct{ ready, notReady []byte }

// encode sets the encoded messages; s must not change afterwards.
func (s *Sandbox) encode() *Sandbox {
	s.encoded = encodedSandbox{ready: encoded(CRISandbox(s, true)), notReady: encoded(CRISandbox(s, false))}
	return s
}

// EncodedSandbox returns [CRISandbox] in wire form. s must come from [ReadSandbox].
func EncodedSandbox(s *Sandbox, ready bool) []byte {
	if ready {
		return s.encoded.ready
	}
	return s.encoded.notReady
}
