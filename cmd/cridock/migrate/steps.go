package migrate

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// The kinds of steps. Doing or undoing one twice, or after a part of it, is the same
// as once.
const (
	stopUnit    = "stop"
	startUnit   = "start"
	disableUnit = "disable"
	enableUnit  = "enable"
	// editFile changes a file.
	editFile = "edit"
	// reloadDone has systemd read its files after they were changed, and reloadUndone
	// after they were changed back: that step comes before the changes.
	reloadDone   = "reload"
	reloadUndone = "reload-undone"
	// recordPods records what the old adapter has; undone, it compares that with what
	// cridock had.
	recordPods = "record"
	// recordKubelet records the same while the kubelet runs, as it must for dockershim.
	// Nothing is compared with it: the kubelet changes pods.
	recordKubelet = "record-kubelet"
	// comparePods waits until cridock lists all pods and compares; undone, it records.
	comparePods = "compare"
	// serve starts cridock; undone, it hands logs and namespaces back and stops it.
	serve = "serve"
	// checkFlags makes sure that the kubelet's settings name cridock alone.
	checkFlags = "check-flags"
	// startKubelet starts it and makes sure that it runs on.
	startKubelet = "start-kubelet"
	// annotate changes kubeadm's annotation of the node.
	annotate = "annotate"
)

// step is one step of a migration. It has all that undoing it needs.
type step struct {
	Kind string `json:"kind"`
	// Unit is the one of stop, start, disable and enable.
	Unit string `json:"unit,omitempty"`
	Edit *edit  `json:"edit,omitempty"`
	// Endpoint is where pods are listed; empty for a record from Docker alone.
	Endpoint string `json:"endpoint,omitempty"`
	// Dockershim: its flags must be gone.
	Dockershim bool        `json:"dockershim,omitempty"`
	Annotation *annotation `json:"annotation,omitempty"`
}

// String describes the step in one line.
func (s step) String() string {
	switch s.Kind {
	case stopUnit, startUnit, disableUnit, enableUnit:
		return "systemctl " + s.Kind + " " + s.Unit
	case editFile:
		if !s.Edit.Existed {
			return "make " + s.Edit.Path
		}
		return "change " + s.Edit.Path
	case reloadDone:
		return "systemctl daemon-reload"
	case recordPods, recordKubelet:
		if s.Endpoint == "" {
			return "record all pods that Docker has"
		}
		return "record all pods that Docker has, with their addresses from " + s.Endpoint
	case comparePods:
		return "wait until cridock lists all these pods on " + s.Endpoint + ", and compare"
	case serve:
		return "systemctl start " + cridockService
	case checkFlags:
		return "check that the kubelet's settings name " + s.Endpoint
	case startKubelet:
		return "systemctl start " + kubeletService + ", and check that it runs on"
	case annotate:
		return s.Annotation.command(s.Annotation.New)
	}
	return s.Kind
}

// undone describes in one line what undoes the step; "" if nothing does.
func (s step) undone() string {
	switch s.Kind {
	case stopUnit, startUnit, disableUnit, enableUnit:
		return "systemctl " + opposite[s.Kind] + " " + s.Unit
	case editFile:
		if !s.Edit.Existed {
			return "remove " + s.Edit.Path
		}
		return "restore " + s.Edit.Path
	case reloadUndone:
		return "systemctl daemon-reload"
	case recordPods:
		return "compare all pods with those that cridock had"
	case comparePods:
		return "record all pods, with their addresses from cridock"
	case serve:
		return "hand logs back as links to Docker's files, systemctl stop " + cridockService + ", and remove its pins of network namespaces"
	case startKubelet:
		return "systemctl stop " + kubeletService
	case annotate:
		return s.Annotation.command(s.Annotation.Old)
	}
	return ""
}

// do does a step.
func (m *migration) do(ctx context.Context, s step) error {
	switch s.Kind {
	case stopUnit, startUnit, disableUnit, enableUnit:
		return m.systemctl(ctx, s.Kind, s.Unit)
	case editFile:
		return m.apply(s.Edit)
	case reloadDone:
		return m.systemctl(ctx, "daemon-reload")
	case reloadUndone:
		return nil
	case recordPods, recordKubelet:
		return m.recordBefore(ctx, s.Endpoint)
	case comparePods:
		return m.compare(ctx, m.journal.Before, s.Endpoint)
	case serve:
		return m.serve(ctx, s)
	case checkFlags:
		return m.checkFlags(s)
	case startKubelet:
		return m.startKubelet(ctx)
	case annotate:
		m.annotate(ctx, s.Annotation, s.Annotation.New)
		return nil
	}
	return fmt.Errorf("the journal has an unknown step %q", s.Kind)
}

// opposite undoes what systemctl did.
var opposite = map[string]string{stopUnit: startUnit, startUnit: stopUnit, disableUnit: enableUnit, enableUnit: disableUnit}

// undo undoes a step that was done, in part, or not at all.
func (m *migration) undo(ctx context.Context, s step) error {
	switch s.Kind {
	case stopUnit, startUnit, disableUnit, enableUnit:
		return m.systemctl(ctx, opposite[s.Kind], s.Unit)
	case editFile:
		return m.revert(s.Edit)
	case reloadUndone:
		return m.systemctl(ctx, "daemon-reload")
	case reloadDone, checkFlags, recordKubelet:
		return nil
	case recordPods:
		return m.tolerate(m.compareBack(ctx, s.Endpoint))
	case comparePods:
		return m.tolerate(m.recordAfter(ctx, s.Endpoint))
	case serve:
		return m.handBack(ctx, s)
	case startKubelet:
		return m.systemctl(ctx, stopUnit, kubeletService)
	case annotate:
		m.annotate(ctx, s.Annotation, s.Annotation.Old)
		return nil
	}
	return fmt.Errorf("the journal has an unknown step %q", s.Kind)
}

// tolerate notes an error that must not keep the old adapter from running.
func (m *migration) tolerate(err error) error {
	if err != nil && m.lenient {
		m.note("%v", err)
		return nil
	}
	return err
}

// startKubelet fails if the kubelet exits, as with flags that it does not know, or if
// it has started the old adapter again.
func (m *migration) startKubelet(ctx context.Context) error {
	if err := m.systemctl(ctx, startUnit, kubeletService); err != nil {
		return err
	}
	first, err := m.unit(ctx, kubeletService)
	if err != nil {
		return err
	}
	for end, again := time.Now().Add(m.Settle), true; again; again = time.Now().Before(end) {
		if err := m.pause(ctx); err != nil {
			return err
		}
		now, err := m.unit(ctx, kubeletService)
		if err != nil {
			return err
		}
		if !now.Active || now.PID != first.PID || now.PID == "0" {
			return errors.New("the kubelet does not keep running; journalctl -u kubelet has the reason")
		}
	}
	names, states, err := m.old(ctx)
	for i, name := range names {
		if states[i].Active {
			return fmt.Errorf("%s runs again: something starts it with the kubelet", name)
		}
	}
	return err
}

// pause waits for the next look.
func (m *migration) pause(ctx context.Context) error {
	t := time.NewTimer(m.Poll)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// annotation is kubeadm's of the node.
type annotation struct {
	Node       string `json:"node"`
	Kubeconfig string `json:"kubeconfig"`
	Old        string `json:"old"`
	New        string `json:"new"`
}

const annotationKey = "kubeadm.alpha.kubernetes.io/cri-socket"

func (a annotation) args(value string) []string {
	return []string{"--kubeconfig=" + a.Kubeconfig, "--request-timeout=10s", "annotate", "node", a.Node, "--overwrite", annotationKey + "=" + value}
}

func (a annotation) command(value string) string {
	return "kubectl " + strings.Join(a.args(value), " ")
}

// annotate only notes an error: the node works without it, and the API server may be
// away.
func (m *migration) annotate(ctx context.Context, a *annotation, value string) {
	if _, err := m.Run(ctx, "kubectl", a.args(value)...); err != nil {
		m.note("kubeadm's annotation of the node is unchanged (%v); run: %s", err, a.command(value))
	}
}
