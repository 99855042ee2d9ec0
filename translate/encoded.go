package translate

import (
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The kubelet asks for the same lists and statuses over and over, and turning
// their maps into protobuf is most of what an answer costs. So each object keeps
// its messages in wire form, made when it is read. Such a message has empty
// fields: what it says is in its unknown fields, which protobuf copies as they
// are, and whoever receives it reads it like any other.

// encoded gives a message in wire form.
func encoded[M proto.Message](m M) M {
	b, err := proto.Marshal(m)
	if err != nil {
		return m // the answer it becomes part of fails with the same error
	}
	out := m.ProtoReflect().New()
	out.SetUnknown(b)
	return out.Interface().(M)
}

// encodedContainer are the messages of a container in wire form.
type encodedContainer struct {
	item   *runtimeapi.Container
	status *runtimeapi.ContainerStatus
}

// encode makes them; c has to stay as it is from then on.
func (c *Container) encode() *Container {
	c.encoded = encodedContainer{item: encoded(CRIContainer(c)), status: encoded(CRIContainerStatus(c))}
	return c
}

// WithResources gives the container with other resources in force. It does not
// change c.
func (c *Container) WithResources(r *runtimeapi.LinuxContainerResources) *Container {
	out := *c
	out.Resources = r
	return out.encode()
}

// EncodedContainer is [CRIContainer] in wire form: to be sent, not to be read
// or changed. c is one that [ReadContainer] has made.
func EncodedContainer(c *Container) *runtimeapi.Container { return c.encoded.item }

// EncodedContainerStatus is [CRIContainerStatus] in wire form, as with
// [EncodedContainer].
func EncodedContainerStatus(c *Container) *runtimeapi.ContainerStatus { return c.encoded.status }

// encodedSandbox are the list items of a sandbox in wire form.
type encodedSandbox struct {
	ready, notReady *runtimeapi.PodSandbox
}

// encode makes them; s has to stay as it is from then on.
func (s *Sandbox) encode() *Sandbox {
	s.encoded = encodedSandbox{ready: encoded(CRISandbox(s, true)), notReady: encoded(CRISandbox(s, false))}
	return s
}

// EncodedSandbox is [CRISandbox] in wire form: to be sent, not to be read or
// changed. s is one that [ReadSandbox] has made.
func EncodedSandbox(s *Sandbox, ready bool) *runtimeapi.PodSandbox {
	if ready {
		return s.encoded.ready
	}
	return s.encoded.notReady
}
