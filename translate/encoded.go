package translate

import (
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The kubelet requests the same lists and statuses over and over, and encoding
// their maps is most of the cost of a response. So each object is encoded once,
// when it is read, and keeps its messages in wire form. Such a message has empty
// fields: its content is in its unknown fields, which protobuf copies unchanged,
// and the receiver reads it like any other.

// encoded returns m in wire form.
func encoded[M proto.Message](m M) M {
	b, err := proto.Marshal(m)
	if err != nil {
		return m // encoding the response fails with the same error
	}
	out := m.ProtoReflect().New()
	out.SetUnknown(b)
	return out.Interface().(M)
}

// encodedContainer holds the messages of a container in wire form.
type encodedContainer struct {
	item   *runtimeapi.Container
	status *runtimeapi.ContainerStatus
}

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

// EncodedContainer returns [CRIContainer] in wire form: to send, not to read or
// change. c must come from [ReadContainer].
func EncodedContainer(c *Container) *runtimeapi.Container { return c.encoded.item }

// EncodedContainerStatus returns [CRIContainerStatus] in wire form, under the
// rules of [EncodedContainer].
func EncodedContainerStatus(c *Container) *runtimeapi.ContainerStatus { return c.encoded.status }

// encodedSandbox holds the list items of a sandbox in wire form.
type encodedSandbox struct {
	ready, notReady *runtimeapi.PodSandbox
}

// encode sets the encoded messages; s must not change afterwards.
func (s *Sandbox) encode() *Sandbox {
	s.encoded = encodedSandbox{ready: encoded(CRISandbox(s, true)), notReady: encoded(CRISandbox(s, false))}
	return s
}

// EncodedSandbox returns [CRISandbox] in wire form: to send, not to read or
// change. s must come from [ReadSandbox].
func EncodedSandbox(s *Sandbox, ready bool) *runtimeapi.PodSandbox {
	if ready {
		return s.encoded.ready
	}
	return s.encoded.notReady
}
