package migrate

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cridock/cridock/internal/trust"
)

// The states of a migration.
const (
	goingForward = "forward"
	goingBack    = "back"
	complete     = "complete"
)

// journalVersion changes if older journals cannot be read.
const journalVersion = 1

// journal is a migration on disk. It is written before the first step and after each.
type journal struct {
	Version int       `json:"version"`
	From    string    `json:"from"`
	Began   time.Time `json:"began"`
	// Boot is the kernel's ID of the boot in which the pods were recorded.
	Boot  string `json:"boot"`
	State string `json:"state"`
	// Next is the number of steps that are done. Forward, one more may be done in part;
	// on the way back, the last may be undone in part.
	Next  int    `json:"next"`
	Steps []step `json:"steps"`
	// Before is what the old adapter had, After what cridock had on the way back.
	Before *snapshot `json:"before,omitempty"`
	After  *snapshot `json:"after,omitempty"`
}

func (m *migration) journalPath() string { return filepath.Join(m.dir(), "journal.json") }

// readJournal returns nil if no migration was begun. The journal decides what root
// writes where: nobody else may be able to change it.
func (m *migration) readJournal() (*journal, error) {
	path := m.Root.Path(m.journalPath())
	err := trust.Check(path, m.UID)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(path) //nolint:gosec // the file is root's
	if err != nil {
		return nil, err
	}
	var j journal
	if err := json.Unmarshal(b, &j); err != nil {
		return nil, fmt.Errorf("%s: %w", m.journalPath(), err)
	}
	if j.Version != journalVersion || j.Next < 0 || j.Next > len(j.Steps) {
		return nil, fmt.Errorf("%s is another version's; use that cridock's migrate", m.journalPath())
	}
	return &j, nil
}

// save writes the journal. It is on disk when save returns.
func (m *migration) save() error {
	b, err := json.MarshalIndent(m.journal, "", " ")
	if err != nil {
		return err
	}
	if m.journaled != nil {
		m.journaled(false)
		defer m.journaled(true)
	}
	return writeAtomically(m.Root.Path(m.journalPath()), b, attributes{Mode: 0o600, UID: m.UID, GID: -1})
}

// forget removes the journal, and then the backups.
func (m *migration) forget() error {
	if err := os.Remove(m.Root.Path(m.journalPath())); err != nil {
		return err
	}
	return errors.Join(syncDir(m.Root.Path(m.dir())), os.RemoveAll(m.Root.Path(m.dir())))
}

// lock keeps a second migration away. It makes the directories.
func (m *migration) lock() (unlock func(), err error) {
	if err := m.settings.PrepareRoot(); err != nil {
		return nil, fmt.Errorf("root-directory %s: %w", m.settings.RootDir, err)
	}
	path := m.Root.Path(m.settings.RootDir)
	f, err := os.Open(path) //nolint:gosec // the directory is root's
	if err != nil {
		return nil, err
	}
	// The directory itself is locked: there is nothing to clean up.
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("another migration of this node runs: %w", err), f.Close())
	}
	return func() { _ = f.Close() }, nil
}

// begin makes the directory of a new migration.
func (m *migration) begin() error {
	path := m.Root.Path(m.dir())
	// Without a journal in it, it is what a killed command left.
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		return err
	}
	return trust.Check(path, m.UID)
}
