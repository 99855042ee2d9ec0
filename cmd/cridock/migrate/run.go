package migrate

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// unfinished says that a migration was begun and not ended, and what can be done.
func (m *migration) unfinished() error {
	j := m.journal
	at := "at its end"
	if j.Next < len(j.Steps) {
		at = fmt.Sprintf("at step %d of %d (%s)", j.Next+1, len(j.Steps), j.Steps[j.Next])
	}
	return fmt.Errorf("a migration from %s, begun %s, was interrupted %s on its way %s: run \"cridock migrate --resume\" to finish it, or \"cridock migrate --back\" to undo it; nothing was changed now",
		j.From, j.Began.Format(time.DateTime), at, j.State)
}

// forward migrates a node.
func (m *migration) forward(ctx context.Context, r Request) error {
	if m.journal != nil && m.journal.State != complete {
		return m.unfinished()
	}
	if m.journal != nil {
		if m.journal.From != r.From {
			return fmt.Errorf("this node was migrated from %s; run \"cridock migrate --back\" first", m.journal.From)
		}
		m.printf("This node was migrated from %s, begun %s. Nothing to do.", r.From, m.journal.Began.Format(time.DateTime))
		return nil
	}
	j, err := m.plan(ctx, r.From)
	if errors.Is(err, errMigrated) {
		m.printf("Nothing to do: %v.", err)
		return nil
	}
	if err != nil {
		return err
	}
	m.printf("From %s to cridock, while all pods keep running:", r.From)
	m.show(j)
	if r.DryRun {
		m.printf("Nothing was changed.")
		return nil
	}
	if err := m.confirm(r); err != nil {
		return err
	}
	m.journal = j
	if err := m.begin(); err != nil {
		return err
	}
	for _, s := range j.Steps {
		if s.Kind == editFile && s.Edit.Existed {
			if err := writeAtomically(m.Root.Path(s.Edit.Backup), s.Edit.Old, s.Edit.attributes); err != nil {
				return err
			}
		}
	}
	return m.goForward(ctx)
}

// resume finishes an interrupted migration.
func (m *migration) resume(ctx context.Context, r Request) error {
	switch {
	case m.journal == nil:
		m.printf("No migration was interrupted. Nothing to do.")
		return nil
	case m.journal.State == complete:
		m.printf("The migration from %s is complete. Nothing to do.", m.journal.From)
		return nil
	}
	m.replay = true
	if err := m.kubeletIsOurs(ctx); err != nil {
		return err
	}
	m.printf("From %s to cridock, while all pods keep running. Some of these steps are done:", m.journal.From)
	m.show(m.journal)
	if r.DryRun {
		m.printf("Nothing was changed.")
		return nil
	}
	if err := m.confirm(r); err != nil {
		return err
	}
	return m.goForward(ctx)
}

// goForward does the steps that are left, or undoes all if one fails.
func (m *migration) goForward(ctx context.Context) error {
	err := m.doAll(ctx)
	if err == nil {
		m.printf("The node runs on cridock. \"cridock migrate --back\" goes back to %s.", m.journal.From)
		return nil
	}
	m.printf("failed: %v", err)
	m.printf("Undoing all steps:")
	m.lenient = true
	if undoErr := m.undoAll(context.WithoutCancel(ctx)); undoErr != nil {
		return fmt.Errorf("%w\nand undoing it failed: %w\nThe node is between two adapters. Mend what failed, and run \"cridock migrate --back\" or \"cridock migrate --resume\"", err, undoErr)
	}
	return fmt.Errorf("%w\nAll steps were undone: the node runs on %s as before", err, m.journal.From)
}

// back undoes a migration, whether it is complete or not.
func (m *migration) back(ctx context.Context, r Request) error {
	if m.journal == nil {
		return fmt.Errorf("%s has no record of a migration; docs/migrating.md has the steps back to do by hand", m.settings.RootDir)
	}
	was := m.journal.State
	m.replay = true
	if err := m.kubeletIsOurs(ctx); err != nil {
		return err
	}
	for _, s := range m.journal.Steps {
		if s.Kind != editFile {
			continue
		}
		if err := m.revertible(s.Edit); err != nil {
			return err
		}
	}
	// An unfinished migration is undone to the end; a complete one can be done again.
	m.lenient = was != complete
	if !m.lenient {
		if err := m.refuseHostPorts(ctx); err != nil {
			return err
		}
	}
	m.printf("Back to %s, while all pods keep running:", m.journal.From)
	m.showBack(m.journal)
	if r.DryRun {
		m.printf("Nothing was changed.")
		return nil
	}
	if err := m.confirm(r); err != nil {
		return err
	}
	from := m.journal.From
	if m.lenient {
		ctx = context.WithoutCancel(ctx)
	}
	err := m.undoAll(ctx)
	switch {
	case err == nil:
		m.printf("The node runs on %s.", from)
		return nil
	case m.lenient:
		return fmt.Errorf("%w\nMend what failed, and run \"cridock migrate --back\" or \"cridock migrate --resume\"", err)
	}
	m.printf("failed: %v", err)
	m.printf("Doing all steps again:")
	if doErr := m.doAll(context.WithoutCancel(ctx)); doErr != nil {
		return fmt.Errorf("%w\nand doing the steps again failed: %w\nThe node is between two adapters. Mend what failed, and run \"cridock migrate --back\" or \"cridock migrate --resume\"", err, doErr)
	}
	return fmt.Errorf("%w\nAll steps were done again: the node runs on cridock as before", err)
}

func (m *migration) saveAs(state string, next int) error {
	m.journal.State, m.journal.Next = state, next
	if err := m.save(); err != nil {
		return fmt.Errorf("journal %s: %w", m.journalPath(), err)
	}
	return nil
}

// kubeletIsOurs fails if the kubelet runs, and did not when the migration was planned:
// no step stops it.
func (m *migration) kubeletIsOurs(ctx context.Context) error {
	for _, s := range m.journal.Steps {
		if s.Kind == stopUnit && s.Unit == kubeletService {
			return nil
		}
	}
	u, err := m.unit(ctx, kubeletService)
	if err == nil && u.Active {
		return errors.New("the kubelet runs, and did not when the migration began: stop it first (systemctl stop kubelet), and start it again at the end")
	}
	return err
}

// doAll does the steps from the first that is not known to be done. On the way back, the
// last one that was not undone may be undone in part.
func (m *migration) doAll(ctx context.Context) error {
	j := m.journal
	switch {
	case m.replay:
		j.Next = 0
	case j.State == goingBack:
		j.Next = max(0, j.Next-1)
	}
	if err := m.saveAs(goingForward, j.Next); err != nil {
		return err
	}
	for j.Next < len(j.Steps) {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("interrupted: %w", err)
		}
		s := j.Steps[j.Next]
		if s.Kind != reloadUndone {
			m.printf("- %s", s)
		}
		if err := m.do(ctx, s); err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
		if err := m.saveAs(goingForward, j.Next+1); err != nil {
			return err
		}
	}
	j.After = nil
	return m.saveAs(complete, j.Next)
}

// undoAll undoes the steps, the last first, from the one that may be done in part. Then
// the node is as before, and the journal is removed. If the disk is full, undoing a
// failed migration goes on without it.
func (m *migration) undoAll(ctx context.Context) error {
	j := m.journal
	if err := m.tolerate(m.saveAs(goingBack, j.Next)); err != nil {
		return err
	}
	last := min(j.Next, len(j.Steps)-1)
	if m.replay {
		last = len(j.Steps) - 1
	}
	for i := last; i >= 0; i-- {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("interrupted: %w", err)
		}
		what := j.Steps[i].undone()
		if what != "" {
			m.printf("- %s", what)
		}
		if err := m.undo(ctx, j.Steps[i]); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		if err := m.tolerate(m.saveAs(goingBack, i)); err != nil {
			return err
		}
	}
	return m.forget()
}
