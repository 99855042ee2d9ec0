// Package trust checks that other users cannot change a file or directory that root
// relies on.
package trust

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// maxLinks is how many symbolic links a path may have, as in the kernel.
const maxLinks = 40

// Check makes sure that only root and the user uid can change the file or directory
// at an absolute path, links followed, and where the path leads. A missing file is
// fs.ErrNotExist. The error says which command makes the path trusted.
func Check(path string, uid int) error {
	if err := CheckLookup(path, uid); err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o022 != 0 {
		return writable(path, info)
	}
	return nil
}

// CheckLookup makes sure that only root and the user uid can change where an absolute
// path leads: no directory on the way, links followed, belongs to others or is
// writable for them. They may write to directories with the sticky bit, such as /tmp.
// What the path leads to must belong to root or uid, but may be writable for others.
// The check ends at the first component that does not exist.
func CheckLookup(path string, uid int) error {
	at, rest := "/", components(path)
	for links := 0; ; {
		info, err := os.Lstat(at)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := checkOwner(at, info, uid); err != nil {
			return err
		}
		if info.Mode().Type() == fs.ModeSymlink {
			if links++; links > maxLinks {
				return fmt.Errorf("%s: %w", at, syscall.ELOOP)
			}
			target, err := os.Readlink(at)
			if err != nil {
				return err
			}
			at, rest = filepath.Dir(at), append(components(target), rest...)
			if filepath.IsAbs(target) {
				at = "/"
			}
			continue
		}
		if len(rest) == 0 {
			return nil
		}
		if info.IsDir() && info.Mode().Perm()&0o022 != 0 && info.Mode()&fs.ModeSticky == 0 {
			return writable(at, info)
		}
		at, rest = filepath.Join(at, rest[0]), rest[1:]
	}
}

// components returns the names in a path. It keeps "..", which leads to the parent of
// what the name before it leads to.
func components(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
}

func checkOwner(path string, info fs.FileInfo, uid int) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	if ok && st.Uid != 0 && int(st.Uid) != uid {
		return fmt.Errorf("%s belongs to user %d; run: chown -h root %s, if you trust its content", path, st.Uid, path)
	}
	return nil
}

func writable(path string, info fs.FileInfo) error {
	return fmt.Errorf("%s is writable for users other than its owner (mode %#o); run: chmod go-w %s", path, info.Mode().Perm(), path)
}
