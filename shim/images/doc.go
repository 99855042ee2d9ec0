// Package images holds what cridock does with images apart from answering the
// kubelet: [Puller] pulls them, with credentials from a [Keychain]; [Remover]
// removes those that nothing uses; [Pause] provides the sandbox image; [Accounts]
// resolves users with an image's account files, which it reads through [Probes];
// [Verifiers] decide which may be pulled; [Pins] which the kubelet keeps; [Usage]
// measures the disk that images and writable layers use.
//
// An image is hostile: nothing that it contains or declares becomes a path, a name
// or the identity of an object. Its files are only read through the engine, with a
// limit, from containers that are never started.
//
// The package starts no goroutine that outlives its caller except the call of a
// credential helper that hangs; a pull runs where [PullerOptions] says. It knows
// neither gRPC nor the CRI service, and returns errors of package errdefs.
package images
