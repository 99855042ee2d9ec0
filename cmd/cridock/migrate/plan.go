package migrate

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/cridock/cridock/internal/nodeconf"
)

// errMigrated means that there is nothing to do.
var errMigrated = errors.New("the kubelet uses cridock already")

// plan makes the journal of a migration. It changes nothing.
func (m *migration) plan(ctx context.Context, from string) (*journal, error) {
	kubeletState, err := m.unit(ctx, kubeletService)
	if err != nil {
		return nil, err
	}
	k, err := m.kubelet()
	if err != nil {
		return nil, err
	}
	names, states, err := m.old(ctx)
	if err != nil {
		return nil, err
	}
	old, err := m.oldEndpoint(from, names)
	if err != nil {
		return nil, err
	}
	running, err := m.usable(ctx, k, from, old, slices.ContainsFunc(states, func(s unitState) bool { return s.Active }))
	if err != nil {
		return nil, err
	}
	if err := m.sameSettings(k, from, names); err != nil {
		return nil, err
	}
	edits, err := m.kubeletEdits(k, change{endpoint: m.settings.Endpoint, dockershim: from == FromDockershim})
	if err != nil {
		return nil, err
	}
	j := &journal{Version: journalVersion, From: from, Began: time.Now(), State: goingForward}
	add := func(s ...step) { j.Steps = append(j.Steps, s...) }
	// The kubelet serves dockershim: it must be asked first.
	if from == FromDockershim {
		add(step{Kind: recordKubelet, Endpoint: old})
		old = ""
	}
	if kubeletState.Active {
		add(step{Kind: stopUnit, Unit: kubeletService})
	}
	add(step{Kind: recordPods, Endpoint: old})
	if from == FromCRIDockerd {
		add(stopAll(names, states)...)
	}
	add(step{Kind: reloadUndone})
	for _, e := range edits {
		add(step{Kind: editFile, Edit: e})
	}
	add(step{Kind: reloadDone}, step{Kind: checkFlags, Endpoint: m.settings.Endpoint, Dockershim: from == FromDockershim})
	add(running...)
	add(step{Kind: comparePods, Endpoint: m.settings.Endpoint})
	if kubeletState.Active {
		add(step{Kind: startKubelet})
	} else {
		m.note("the kubelet does not run, and is not started")
	}
	add(m.annotation(ctx, k)...)
	m.nameBackups(j)
	return j, nil
}

func stopAll(names []string, states []unitState) []step {
	var steps []step
	for i, name := range names {
		if states[i].Active {
			steps = append(steps, step{Kind: stopUnit, Unit: name})
		}
	}
	for i, name := range names {
		if states[i].Enabled {
			steps = append(steps, step{Kind: disableUnit, Unit: name})
		}
	}
	return steps
}

// usable checks that there is something to migrate, and returns the steps that start
// cridock.
func (m *migration) usable(ctx context.Context, k *kubelet, from, old string, oldActive bool) ([]step, error) {
	service, err := m.unit(ctx, cridockService)
	if err != nil {
		return nil, err
	}
	socket, err := m.unit(ctx, cridockSocket)
	if err != nil {
		return nil, err
	}
	switch {
	case service.Active && !oldActive && sameSocket(k.endpoint, m.settings.Endpoint):
		return nil, errMigrated
	case service.Active:
		return nil, errors.New("cridock.service runs already; stop it first (systemctl stop cridock.socket cridock.service): two adapters must not act on the same pods")
	case from == FromCRIDockerd && k.endpoint == "":
		return nil, fmt.Errorf("the kubelet's unit and configuration name no container runtime endpoint: migrate does not know where to change it from %s", old)
	case from == FromCRIDockerd && !sameSocket(k.endpoint, old) && !sameSocket(k.endpoint, m.settings.Endpoint):
		return nil, fmt.Errorf("the kubelet uses %s, and not cri-dockerd's %s", k.endpoint, old)
	case from == FromDockershim && nodeconf.FlagValue(k.line, runtimeFlag) == remote:
		return nil, fmt.Errorf("the kubelet has --%s=%s, and does not use dockershim", runtimeFlag, remote)
	}
	for _, key := range []string{"Wants", "Requires", "Requisite", "BindsTo", "Upholds"} {
		for _, value := range k.unit["Unit."+key] {
			for unit := range strings.FieldsSeq(value) {
				if from == FromCRIDockerd && slices.Contains(oldUnits, unit) {
					return nil, fmt.Errorf("%s has %s=%s, which would start it again with the kubelet: remove that first", kubeletService, key, unit)
				}
			}
		}
	}
	return m.startCridock(service, socket)
}

func (m *migration) startCridock(service, socket unitState) ([]step, error) {
	var steps []step
	if socket.Loaded && socket.Enabled && !socket.Active {
		steps = append(steps, step{Kind: startUnit, Unit: cridockSocket})
	}
	if !service.Enabled {
		steps = append(steps, step{Kind: enableUnit, Unit: cridockService})
	}
	s := step{Kind: serve}
	if m.settings.ConfigDir != "" && !m.settings.LinkedLogs {
		path := filepath.Join(m.settings.ConfigDir, "zz-migrate.yaml")
		if m.Root.Exists(path) {
			return nil, fmt.Errorf("%s is in the way: remove it", path)
		}
		s.Edit = &edit{Path: path, New: []byte("# From \"cridock migrate\", while it hands logs back.\ncontainer-log-mode: symlink\n"), attributes: attributes{Mode: 0o644, UID: m.UID, GID: -1}}
		for dir := filepath.Dir(path); !m.Root.Exists(dir); dir = filepath.Dir(dir) {
			s.Edit.Makes = append([]string{dir}, s.Edit.Makes...)
		}
	}
	return append(steps, s), nil
}

// noNetworkPlugin matches a command line that sets it to nothing, which is Docker's
// network.
var noNetworkPlugin = regexp.MustCompile(`--network-plugin(=|=""|=no-op| no-op)(\s|$)`)

// sameSettings compares the old adapter's settings with cridock's: pods are on its
// network, and in its engine.
func (m *migration) sameSettings(k *kubelet, from string, names []string) error {
	line, plugin := k.line, "docker"
	if from == FromCRIDockerd {
		line, plugin = "", "cni"
		for _, name := range names {
			if strings.HasSuffix(name, ".service") {
				var err error
				if line, err = m.command(name); err != nil {
					return err
				}
				break
			}
		}
		if line == "" {
			m.note("there is no unit of cri-dockerd: its settings were not compared with cridock's")
			return nil
		}
	}
	if p := nodeconf.FlagValue(line, "network-plugin"); p != "" {
		plugin = p
	}
	if noNetworkPlugin.MatchString(line) {
		plugin = "docker"
	}
	var differ []error
	want := func(setting, theirs, ours string, equal bool) {
		if !equal {
			differ = append(differ, fmt.Errorf("%s is %s for %s, and %s for cridock", setting, theirs, from, ours))
		}
	}
	if plugin == "kubenet" {
		return errors.New("pods on kubenet cannot be migrated: drain the node first")
	}
	want("network-plugin", plugin, m.settings.NetworkPlugin, plugin == m.settings.NetworkPlugin)
	docker := or(nodeconf.FlagValue(line, "docker-endpoint"), "unix:///var/run/docker.sock")
	want("docker-endpoint", docker, m.settings.DockerEndpoint, sameSocket(docker, m.settings.DockerEndpoint))
	if plugin == "cni" {
		conf := or(nodeconf.FlagValue(line, "cni-conf-dir"), "/etc/cni/net.d")
		want("cni-conf-dir", conf, m.settings.CNIConfDir, filepath.Clean(conf) == filepath.Clean(m.settings.CNIConfDir))
		cache := or(nodeconf.FlagValue(line, "cni-cache-dir"), "/var/lib/cni/cache")
		want("cni-cache-dir", cache, m.settings.CNICacheDir, filepath.Clean(cache) == filepath.Clean(m.settings.CNICacheDir))
		bin := or(nodeconf.FlagValue(line, "cni-bin-dir"), "/opt/cni/bin")
		for dir := range strings.SplitSeq(bin, ",") {
			want("cni-bin-dir", bin, strings.Join(m.settings.CNIBinDirs, ","), slices.ContainsFunc(m.settings.CNIBinDirs, func(d string) bool { return filepath.Clean(d) == filepath.Clean(dir) }))
		}
	}
	if len(differ) > 0 {
		return fmt.Errorf("settings differ; give cridock the same ones first (/etc/cridock/cridock.yaml):\n%w", errors.Join(differ...))
	}
	return nil
}

func or(value, standard string) string {
	if value == "" {
		return standard
	}
	return value
}

// annotation returns the step that changes kubeadm's annotation, if the node has one.
func (m *migration) annotation(ctx context.Context, k *kubelet) []step {
	a := &annotation{New: m.settings.Endpoint}
	for _, path := range []string{"/etc/kubernetes/kubelet.conf", "/etc/kubernetes/admin.conf"} {
		if a.Kubeconfig == "" && m.Root.Exists(path) {
			a.Kubeconfig = m.Root.Path(path)
		}
	}
	if a.Node = nodeconf.FlagValue(k.line, "hostname-override"); a.Node == "" {
		name, err := m.Hostname()
		if err != nil {
			m.note("kubeadm's annotation of the node is not changed: %v", err)
			return nil
		}
		a.Node = strings.ToLower(name)
	}
	if a.Kubeconfig == "" {
		if m.Root.Exists(kubeletDir + "/kubeadm-flags.env") {
			m.note("there is no kubeconfig in /etc/kubernetes to change kubeadm's annotation with; run where there is one: kubectl annotate node %s --overwrite %s=%s", a.Node, annotationKey, a.New)
		}
		return nil
	}
	out, err := m.Run(ctx, "kubectl", "--kubeconfig="+a.Kubeconfig, "--request-timeout=10s", "get", "node", a.Node, "-o", `jsonpath={.metadata.annotations.kubeadm\.alpha\.kubernetes\.io/cri-socket}`)
	a.Old = strings.TrimSpace(out)
	switch {
	case err != nil:
		m.note("kubeadm's annotation of the node is not changed, if it has one (%v); run: %s", err, a.command(a.New))
		return nil
	case a.Old == "" || a.Old == a.New:
		return nil
	}
	return []step{{Kind: annotate, Annotation: a}}
}

// nameBackups says where copies of the files will be.
func (m *migration) nameBackups(j *journal) {
	for i, s := range j.Steps {
		if s.Kind == editFile && s.Edit.Existed {
			s.Edit.Backup = filepath.Join(m.dir(), fmt.Sprintf("%d-%s", i+1, filepath.Base(s.Edit.Path)))
		}
	}
}

// show prints the steps and what changes in files.
func (m *migration) show(j *journal) {
	n := 0
	for _, s := range j.Steps {
		if s.Kind == reloadUndone {
			continue
		}
		n++
		m.printf("%2d. %s", n, s)
		if s.Kind == editFile {
			m.showDifference(s.Edit.Old, s.Edit.New)
			if s.Edit.Backup != "" {
				m.printf("      (backup: %s)", s.Edit.Backup)
			}
		}
	}
}

// showBack prints what undoes the steps.
func (m *migration) showBack(j *journal) {
	n := 0
	for i := len(j.Steps) - 1; i >= 0; i-- {
		s := j.Steps[i]
		if s.undone() == "" {
			continue
		}
		n++
		m.printf("%2d. %s", n, s.undone())
		if s.Kind == editFile {
			m.showDifference(s.Edit.New, s.Edit.Old)
		}
	}
}

func (m *migration) showDifference(old, next []byte) {
	for _, line := range difference(string(old), string(next)) {
		m.printf("      %s", line)
	}
}

// difference returns the lines between the first and the last that differ.
func difference(old, next string) []string {
	a, b := lines(old), lines(next)
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		a, b = a[1:], b[1:]
	}
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	var all []string
	for _, line := range a {
		all = append(all, "- "+line)
	}
	for _, line := range b {
		all = append(all, "+ "+line)
	}
	return all
}

func lines(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(text, "\n"), "\n")
}
