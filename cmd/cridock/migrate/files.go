package migrate

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cridock/cridock/internal/trust"
)

// attributes are a file's mode and owner. A GID of -1 is the process's.
type attributes struct {
	Mode fs.FileMode `json:"mode"`
	UID  int         `json:"uid"`
	GID  int         `json:"gid"`
}

// edit is a change of one file.
type edit struct {
	// Path is the file's, as the node names it, links followed.
	Path string `json:"path"`
	// Existed is false for a file that the migration makes.
	Existed bool `json:"existed"`
	// Old and New are its contents.
	Old []byte `json:"old"`
	New []byte `json:"new"`
	attributes
	// Backup is a copy of the old file for people.
	Backup string `json:"backup,omitempty"`
	// Makes are the directories that the file needs and that do not exist, the
	// outermost first.
	Makes []string `json:"makes,omitempty"`
}

// newEdit returns the change of a file from what was read of it to a new content; nil if
// they are the same. A file that others can change is refused.
func (m *migration) newEdit(path, was, content string) (*edit, error) {
	real, err := filepath.EvalSymlinks(m.Root.Path(path))
	if errors.Is(err, fs.ErrNotExist) {
		e := &edit{Path: path, New: []byte(content), attributes: attributes{Mode: 0o644, UID: m.UID, GID: -1}}
		for dir := filepath.Dir(path); !m.Root.Exists(dir); dir = filepath.Dir(dir) {
			e.Makes = append([]string{dir}, e.Makes...)
		}
		return e, trust.CheckLookup(m.Root.Path(path), m.UID)
	}
	if err != nil {
		return nil, err
	}
	if err := trust.Check(m.Root.Path(path), m.UID); err != nil {
		return nil, err
	}
	old, err := os.ReadFile(real)
	if err != nil {
		return nil, err
	}
	switch string(old) {
	case content:
		return nil, nil
	case was:
	default:
		return nil, fmt.Errorf("%s %w, or is too large", path, errChanged)
	}
	info, err := os.Stat(real)
	if err != nil {
		return nil, err
	}
	e := &edit{Path: m.Root.Shown(real), Existed: true, Old: old, New: []byte(content), attributes: attributes{Mode: info.Mode().Perm(), UID: -1, GID: -1}}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		e.UID, e.GID = int(st.Uid), int(st.Gid)
	}
	return e, nil
}

// errChanged means that somebody else has changed a file.
var errChanged = errors.New("has been changed by somebody else")

// content returns the file's present content, and whether it exists.
func (m *migration) content(e *edit) ([]byte, bool, error) {
	b, err := os.ReadFile(m.Root.Path(e.Path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	return b, err == nil, err
}

// apply makes the change, unless it is made.
func (m *migration) apply(e *edit) error {
	now, exists, err := m.content(e)
	switch {
	case err != nil:
		return err
	case exists && bytes.Equal(now, e.New):
		return nil
	case exists != e.Existed || !bytes.Equal(now, e.Old):
		return fmt.Errorf("%s %w; run migrate again", e.Path, errChanged)
	}
	if err := trust.CheckLookup(m.Root.Path(e.Path), m.UID); err != nil {
		return err
	}
	for _, dir := range e.Makes {
		if err := os.Mkdir(m.Root.Path(dir), 0o755); err != nil && !errors.Is(err, fs.ErrExist) { //nolint:gosec // as systemd's
			return err
		}
	}
	return writeAtomically(m.Root.Path(e.Path), e.New, e.attributes)
}

// revertible reports why the change cannot be undone.
func (m *migration) revertible(e *edit) error {
	now, exists, err := m.content(e)
	switch {
	case err != nil:
		return err
	case exists == e.Existed && bytes.Equal(now, e.Old), exists && bytes.Equal(now, e.New):
		return nil
	case e.Existed:
		return fmt.Errorf("%s %w since the migration; undo it by hand (cp -p %s %s), and run migrate --back again", e.Path, errChanged, e.Backup, e.Path)
	}
	return fmt.Errorf("%s %w since the migration; remove it, and run migrate --back again", e.Path, errChanged)
}

// revert undoes the change, unless it is undone.
func (m *migration) revert(e *edit) error {
	if err := m.revertible(e); err != nil {
		return err
	}
	path := m.Root.Path(e.Path)
	if err := os.Remove(draft(path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if e.Existed {
		now, _, err := m.content(e)
		if err != nil || bytes.Equal(now, e.Old) {
			return err
		}
		return writeAtomically(path, e.Old, e.attributes)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for i := range e.Makes {
		_ = os.Remove(m.Root.Path(e.Makes[len(e.Makes)-1-i])) // others may have put files into it
	}
	return nil
}

// draft is the name of a file before it replaces another. No directory of drop-ins
// reads it.
func draft(path string) string {
	return filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".cridock-migrate")
}

// writeAtomically replaces a file. The file is on disk when it returns. It keeps owner
// and mode, and its draft has a name that revert knows, so that no killed migration
// leaves one: no other writer of atomic files does both.
func writeAtomically(path string, content []byte, a attributes) error {
	next := draft(path)
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(next, os.O_CREATE|os.O_EXCL|os.O_WRONLY|unix.O_NOFOLLOW, 0o600) //nolint:gosec // others cannot change the directory
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Chown(a.UID, a.GID), f.Chmod(a.Mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(next, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(next))
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(path string) error {
	d, err := os.Open(path) //nolint:gosec // of a file that was just written
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
