package logs

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"k8s.io/klog/v2"
)

// openOutput opens the position and the CRI log file, if they are not open. On
// success there is a file at CRILog; it replaces a link there. Errors: errFinished.
func (f *follower) openOutput() error {
	if f.state.finished() {
		return errFinished
	}
	if f.state.open() {
		return nil
	}
	if err := f.src.replaceLink(); err != nil {
		return err
	}
	posFile, p, err := openPosition(f.src.Position)
	if posFile == nil {
		return err
	}
	known := err == nil
	// The directory is created only here: if it disappears later, that is on purpose.
	if err := f.src.CRIRoot.MkdirAll(filepath.Dir(f.src.CRILog), 0o755); err != nil {
		return errors.Join(fmt.Errorf("container log directory: %w", err), posFile.close())
	}
	out, err := f.src.openCRI(f.src.CRILog)
	if err != nil {
		return errors.Join(err, posFile.close())
	}
	f.pos, f.out.criFile = progress{position: p, file: posFile}, out
	s, err := f.placeOutput(known)
	if err != nil {
		f.closeFiles()
		return err
	}
	f.enter(s)
	return nil
}

// placeOutput finds the position in the CRI log, and returns the state that follows
// from it.
func (f *follower) placeOutput(known bool) (state, error) {
	size, _, err := f.out.state()
	if err != nil {
		return closed, err
	}
	switch {
	case known && f.pos.criInode == f.out.id.ino && size >= f.pos.base:
		f.out.skip = size - f.pos.base
		return following, nil
	case known && f.pos.criInode != f.out.id.ino:
		old, err := f.src.rotatedCRI(f.pos.criInode)
		if err != nil {
			return closed, err
		}
		if old != nil {
			return f.placeAside(old)
		}
	case !known && (size > 0 || len(f.src.rotatedNames()) > 0):
		return searching, nil
	}
	// A new log, or one that was emptied or replaced: continue at its end.
	f.pos.criInode, f.pos.base = f.out.id.ino, size
	return following, f.pos.file.store(f.pos.position)
}

// placeAside continues in a file that the kubelet has renamed without calling
// ReopenContainerLog yet: its last line must be finished there.
func (f *follower) placeAside(old *criFile) (state, error) {
	size, _, err := old.state()
	if err != nil {
		return closed, errors.Join(err, old.Close())
	}
	_ = f.out.Close()
	f.out.criFile, f.out.skip = old, max(0, size-f.pos.base)
	return renamed, nil
}

// moveAside finishes the last line in a file that is no longer at CRILog, and
// switches to one that is. Afterwards the state is not renamed.
func (f *follower) moveAside(b *buffers) error {
	for f.out.skip > 0 && !f.api.used.Load() {
		if more, err := f.carry(b); !more || err != nil {
			break // the disk is full, or Docker's file is gone: cut instead
		}
	}
	if f.out.skip > 0 && f.state != searching {
		size, err := f.out.cutTorn()
		if err != nil {
			return err
		}
		f.out.skip = max(0, size-f.pos.base)
	}
	fresh, err := f.src.openCRI(f.src.CRILog)
	if err != nil {
		return err
	}
	if fresh.id == f.out.id {
		f.leave(renamed)
		return fresh.Close()
	}
	size, _, err := fresh.state()
	if err != nil {
		return errors.Join(err, fresh.Close())
	}
	p := f.pos.position
	p.criInode, p.base = fresh.id.ino, size-f.out.skip
	if f.state != searching {
		// Must not be delayed: the next write would leave a position that no file matches.
		if err := f.pos.file.store(p); err != nil {
			return errors.Join(err, fresh.Close())
		}
	}
	_ = f.out.Close()
	f.out.former = f.out.id
	f.pos.position, f.out.criFile = p, fresh
	f.leave(renamed)
	return nil
}

// emit writes the output between the current position and p, except what is
// already in the file, and makes p the position. After an error the position is
// unchanged and skip says how much of out was written.
func (f *follower) emit(out []byte, p position) error {
	if err := f.checkOutput(out); err != nil {
		return err
	}
	present := int(min(f.out.skip, int64(len(out))))
	n, err := f.out.Write(out[present:])
	f.count.criBytes.Add(uint64(n))
	if err != nil {
		f.out.skip += int64(n)
		return fmt.Errorf("write container log: %w", err)
	}
	f.out.skip -= int64(present)
	p.criInode, p.base = f.pos.criInode, f.pos.base+int64(len(out))
	f.pos.position = p
	f.store()
	return nil
}

// checkOutput ensures that the bytes counted by skip are in the file, whatever
// others did to it, and that the file has a name.
func (f *follower) checkOutput(out []byte) error {
	size, linked, err := f.out.state()
	if err != nil {
		return err
	}
	if !linked {
		return f.replaceOutput()
	}
	if size == f.pos.base+f.out.skip {
		if f.out.skip == 0 {
			return nil
		}
		same, err := f.out.holds(out[:min(f.out.skip, int64(len(out)))], f.pos.base)
		if same || err != nil {
			return err
		}
		// Other content: Docker deleted the records of these lines, or the file was edited.
		if size, err = f.out.cutTorn(); err != nil {
			return err
		}
	}
	f.pos.base, f.out.skip = size, 0
	return nil
}

// replaceOutput creates a new file in place of a deleted one. It does not recreate
// the directory: while that is missing, it fails.
func (f *follower) replaceOutput() error {
	fresh, err := f.src.openCRI(f.src.CRILog)
	if err != nil {
		return err
	}
	size, _, err := fresh.state()
	if err != nil {
		return errors.Join(err, fresh.Close())
	}
	carried := int64(0)
	// The kubelet undoes a rename when it gets no answer to ReopenContainerLog; that
	// deletes the file created in between, whose lines belong in the old one.
	if fresh.id == f.out.former {
		n, err := io.Copy(fresh, io.NewSectionReader(f.out.criFile, 0, 1<<62))
		if err != nil {
			return errors.Join(fmt.Errorf("copy container log back: %w", err), fresh.Truncate(size), fresh.Close())
		}
		size, carried = size+n, f.out.skip
	}
	_ = f.out.Close()
	f.out = output{criFile: fresh, skip: carried}
	f.pos.criInode, f.pos.base = fresh.id.ino, size-carried
	f.store()
	return nil
}

// store writes the position. A failure does no harm as long as the CRI log file
// stays the same, since its size shows how far ahead it is.
func (f *follower) store() {
	if err := f.pos.file.store(f.pos.position); err != nil {
		f.count.positionErrors.Add(1)
		f.trouble.report(klog.Background(), f.src.ID, err)
	}
}
