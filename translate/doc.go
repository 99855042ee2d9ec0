// Package translate converts between the three vocabularies cridock speaks:
// CRI v1 messages, Docker Engine API structures and CNI runtime configurations.
//
// Every function is pure: the result depends on the arguments alone. The caller
// gathers other facts (engine capabilities, an image's files, resolved paths)
// and passes them in as [Host], [User], [ResolvedMount] and the like.
//
// Requests go through Validate… → Docker…; answers through Read… (a Docker
// inspect response becomes a [Sandbox], [Container] or [Image]) → CRI…. Docker
// labels keep what a CRI caller requested: dockershim's labels, so that cridock
// understands pods of dockershim and cri-dockerd and they understand cridock's,
// and [LabelConfig], with the requested configuration. Docker mixes the image's
// labels with them, so they are trusted only under a [Seal]. A container without
// one is adopted by its name and the labels that cannot be its image's.
//
// A request field either has an effect or is refused. Refusals are classified
// with the sentinels of github.com/containerd/errdefs and name the CRI field.
//
// The package does no I/O, logs nothing, takes no context, reads no clock,
// starts no goroutine, and does not change its arguments unless a function says
// so.
package translate
