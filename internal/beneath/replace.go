package beneath

import (
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
)

// draftSuffix ends the names of drafts. If a draft is left behind, the kubelet
// removes it: it deletes files of a container's log with this suffix.
const draftSuffix = ".tmp"

// WriteFile atomically replaces whatever has the name, even a link, with a file of
// this content: a reader finds the old one or the new one. The mode is subject to
// the umask.
func (r Root) WriteFile(name string, content []byte, perm fs.FileMode) error {
	return r.replace(name, func(dir *os.Root, draft string) error {
		f, err := dir.OpenFile(draft, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
		if err != nil {
			return err
		}
		_, err = f.Write(content)
		return errors.Join(err, f.Close())
	})
}

// Symlink is WriteFile for a symbolic link to target.
func (r Root) Symlink(target, name string) error {
	return r.replace(name, func(dir *os.Root, draft string) error { return dir.Symlink(target, draft) })
}

// replace renames what create makes to name. The draft's name is unguessable and
// must not exist yet.
func (r Root) replace(name string, create func(dir *os.Root, draft string) error) error {
	return r.in(name, func(dir *os.Root, base string) error {
		draft := base + "." + rand.Text() + draftSuffix
		if err := create(dir, draft); errors.Is(err, fs.ErrExist) {
			return err // somebody else's file
		} else if err != nil {
			_ = dir.Remove(draft) // a full disk leaves a partial draft
			return err
		}
		if err := dir.Rename(draft, base); err != nil {
			_ = dir.Remove(draft)
			return err
		}
		return nil
	})
}
