package translate

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
)

// ErrArtifact is the class of errors for what is not an image.
var ErrArtifact = fmt.Errorf("not an image: %w", errdefs.ErrFailedPrecondition)

// IsArtifactError reports whether [PullError] has found that the engine cannot hold
// what the reference names, which may be an artifact.
func IsArtifactError(err error) bool { return errors.Is(err, ErrArtifact) }

// pullErrors classifies pull failures by Docker's text, as its stream of progress
// messages has nothing else, and says what helps. The first match wins. Seen on
// Docker 20.10 (API 1.41), 26.1 (1.45), 28.5 (1.51) and 29 (1.52).
//
// Errors that the kubelet recognises by their reason are Unknown: with any other
// code it sees "rpc error: code = ..." before the reason and misses it. A refusal
// by the registry is Unknown in containerd too.
var pullErrors = []struct {
	texts  []string // in lower case
	class  error
	reason string
	cure   string
	own    string // the cure if cridock itself has asked a server; "" for the same
}{
	{
		[]string{"toomanyrequests", "too many requests"}, errdefs.ErrResourceExhausted, "",
		"wait, use credentials, or set up a mirror of the registry",
		"",
	},
	{
		[]string{"remote trust data", "content trust", "signature verification failed"}, errdefs.ErrUnknown, ReasonSignatureValidationFailed,
		"sign the image, or change the engine's content trust",
		"",
	},
	{
		[]string{"pull access denied", "unauthorized", "authentication required", "no basic auth credentials", "incorrect username or password", "denied:", "403 forbidden"},
		errdefs.ErrUnknown, "",
		"check the image's name, the pod's imagePullSecrets and the node's docker-config",
		"",
	},
	{
		[]string{"no matching manifest", "no match for platform", "cannot be used on this platform"}, errdefs.ErrNotFound, "",
		"use an image that is built for the node's platform",
		"",
	},
	{
		[]string{"schema 1", "schemaversion 1", "manifest.v1+", "v1 manifest"}, errdefs.ErrFailedPrecondition, "",
		"the image has the format of 2015 (schema 1): push it again with a current tool",
		"",
	},
	{
		[]string{
			"unsupported media type", "invalid rootfs in image configuration", "encountered remote", "mediatype in manifest", "unsupported config mediatype",
			"unexpected media type",
		}, ErrArtifact, "",
		"this is not an image that the engine can run: it may be an artifact",
		"",
	},
	{
		[]string{"max depth exceeded"}, errdefs.ErrFailedPrecondition, "",
		"the engine's storage driver takes at most 125 layers: squash the image, or use Docker's containerd image store",
		"",
	},
	{
		[]string{"manifest unknown", "404 not found", "manifest for ", "name unknown", "repository name not known", ": not found"}, errdefs.ErrNotFound, "",
		"check the image's name and tag",
		"",
	},
	{
		[]string{"x509:", "tls: "}, errdefs.ErrUnknown, ReasonRegistryUnavailable,
		"give Docker the registry's CA as /etc/docker/certs.d/HOST:PORT/ca.crt; if the certificate is not valid, renew it",
		"name the server's CA as ca in the registry's hosts.toml (Docker's certs.d does not count for mirrors and artifacts); if the certificate is not valid, renew it",
	},
	{
		[]string{"server gave http response to https client"}, errdefs.ErrUnknown, ReasonRegistryUnavailable,
		"the registry has no TLS: set it up, or list the registry in insecure-registries of Docker's daemon.json",
		"the server has no TLS: set it up, or name it as http://HOST:PORT in the registry's hosts.toml (Docker's insecure-registries do not count for mirrors and artifacts)",
	},
	{
		[]string{"dial tcp: lookup ", "no such host", "server misbehaving", "temporary failure in name resolution"}, errdefs.ErrUnknown, ReasonRegistryUnavailable,
		"check the registry's name and the node's DNS",
		"",
	},
	{
		[]string{
			"connection refused", "connection reset", "i/o timeout", "tls handshake timeout", "client.timeout", "request canceled while waiting for connection",
			"context deadline exceeded", "no route to host", "network is unreachable", "unexpected eof",
		}, errdefs.ErrUnknown, ReasonRegistryUnavailable,
		"check the registry, and the node's way to it (firewall, Docker's proxy settings)",
		"check the server, and the node's way to it (firewall, cridock's proxy settings)",
	},
	{
		[]string{"500 internal server error", "502 bad gateway", "503 service unavailable", "504 gateway time"}, errdefs.ErrUnknown, ReasonRegistryUnavailable,
		"the registry has a fault: see its log, or try later",
		"",
	},
}

// diskFull is the system's text for a disk without space. The class is that of rate
// limits too.
const diskFull = "no space left on device"

// diskFullCure ends the error of a pull for which the disk has no space.
const diskFullCure = "free disk space below Docker's data directory"

// PullError classifies the failure of an image pull, keeps its text and adds what
// helps; nil stays nil. It returns unchanged an error of the caller's own context, an
// unavailable engine, and an error that matches nothing.
func PullError(err error) error { return pullError(err, false) }

// OwnPullError is [PullError] for what cridock itself has asked of servers: of mirrors,
// and for artifacts. Docker's settings for registries do not help there.
func OwnPullError(err error) error { return pullError(err, true) }

func pullError(err error, own bool) error {
	if err == nil || errdefs.IsCanceled(err) || errdefs.IsDeadlineExceeded(err) || errdefs.IsUnavailable(err) {
		return err
	}
	if errdefs.IsResourceExhausted(err) && strings.Contains(err.Error(), diskFull) {
		return fmt.Errorf("%w; %s", err, diskFullCure)
	}
	message := readRegistryAnswer(err.Error())
	text := strings.ToLower(message)
	for _, e := range pullErrors {
		if !containsAny(text, e.texts) {
			continue
		}
		cure := e.cure
		if own {
			cure = cmp.Or(e.own, cure)
		}
		classified := fmt.Errorf("%s: %w; %s", message, e.class, cure)
		if e.reason != "" {
			return &ReasonError{Reason: e.reason, Err: classified}
		}
		return classified
	}
	return err
}

// containsAny reports whether a text contains one of several.
func containsAny(text string, parts []string) bool {
	return slices.ContainsFunc(parts, func(part string) bool { return strings.Contains(text, part) })
}

// readRegistryAnswer turns a registry's JSON at the end of a message into text.
// Docker 26.1 and later pass it on unparsed if the registry did not declare it as
// JSON.
func readRegistryAnswer(message string) string {
	i := strings.Index(message, `{"errors":`)
	if i < 0 {
		return message
	}
	var answer struct {
		Errors []struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"errors"`
	}
	if json.Unmarshal([]byte(message[i:]), &answer) != nil || len(answer.Errors) == 0 {
		return message
	}
	code := strings.ToLower(strings.ReplaceAll(answer.Errors[0].Code, "_", " "))
	return strings.TrimSuffix(message[:i], "unknown: ") + code + ": " + answer.Errors[0].Message
}
