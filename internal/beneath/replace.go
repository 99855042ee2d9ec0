package beneath

import (
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
)

// draftSuffix ends the names of drafts. The kubelet clears away files of a
// container's log that have it, should one stay.
const draftSuffix = ".tmp"

// WriteFile puts a file with this content in place of what has the name, a link
// included, at once: a reader finds the old one or the new one. The mode is
// subject to the umask.
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

// replace renames what create makes to name. A draft has a name that nobody can
// guess, and that must be free.
func (r Root) replace(name string, create func(dir *os.Root, draft string) error) error {
	return r.in(name, func(dir *os.Root, base string) error {
		draft := base + "." + rand.Text() + draftSuffix
		if err := create(dir, draft); errors.Is(err, fs.ErrExist) {
			return err // that one is not ours
		} else if err != nil {
			_ = dir.Remove(draft) // a full disk leaves a part of it
			return err
		}
		if err := dir.Rename(draft, base); err != nil {
			_ = dir.Remove(draft)
			return err
		}
		return nil
	})
}
