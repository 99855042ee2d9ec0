// Package nodeconf reads how a node starts its services: systemd units with their
// drop-ins and environment files, and the flags in them. It changes nothing.
package nodeconf

import (
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// Root is the root directory of a node. Paths of the node are below it.
type Root string

// Path returns where a path of the node is.
func (r Root) Path(parts ...string) string {
	return filepath.Join(append([]string{string(r)}, parts...)...)
}

// Shown returns the node's name of a path made by Path.
func (r Root) Shown(path string) string {
	return "/" + strings.TrimPrefix(strings.TrimPrefix(path, filepath.Clean(string(r))), "/")
}

// maxFile bounds what is read of a file, in bytes.
const maxFile = 1 << 20

// ReadFile returns the first MiB of a file.
func (r Root) ReadFile(path string) (string, error) {
	f, err := os.Open(r.Path(path))
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return "", err
	}
	return string(b), nil
}

// Exists reports whether there is something at a path, if only a link.
func (r Root) Exists(path string) bool {
	_, err := os.Lstat(r.Path(path))
	return err == nil
}

// FlagValue returns the value of a flag's last appearance, "" if there is none.
func FlagValue(line, name string) string {
	matches := regexp.MustCompile(`(?:^|\s)--?`+regexp.QuoteMeta(name)+`[= ]["']?([^"'\s]+)`).FindAllStringSubmatch(line, -1)
	if len(matches) == 0 {
		return ""
	}
	return matches[len(matches)-1][1]
}

// SocketPath returns the file of an endpoint; /var/run is a link to /run.
func SocketPath(endpoint string) string {
	path := filepath.Clean(strings.TrimPrefix(endpoint, "unix://"))
	if rest, ok := strings.CutPrefix(path, "/var/run/"); ok {
		path = "/run/" + rest
	}
	return path
}
