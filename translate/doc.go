// Package translate converts between the three vocabularies cridock speaks:
// CRI v1 messages, Docker Engine API structures and CNI runtime configurations.
//
// Every function is pure: the result depends on the arguments alone. Facts that
// live elsewhere (what the engine can do, the files of an image, resolved
// paths) are gathered by the caller and passed in as [Host], [User],
// [ResolvedMount] and the like.
//
// The way in is Validate… → Docker…; the way out is Read… (a Docker inspect
// answer becomes a [Sandbox], [Container] or [Image]) → CRI…. What a caller of
// the CRI asked for is kept in Docker labels: dockershim's, so that cridock
// understands pods of dockershim and cri-dockerd and they understand cridock's,
// and [LabelConfig], with the requested configuration. Docker mixes labels of
// the image with them, so they count only under a [Seal]. A container without
// one is adopted by its name and those labels that cannot be its image's.
//
// A request field either has an effect or is refused. Refusals are classified
// with the sentinels of github.com/containerd/errdefs and name the CRI field.
//
// The package never does I/O, never logs, takes no context, reads no clock,
// starts no goroutine, and never changes its arguments.
package translate
