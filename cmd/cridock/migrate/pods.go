package migrate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/docker/docker/api/types/filters"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/internal/nodeconf"
	"github.com/cridock/cridock/translate"
)

// member is a sandbox or a container of a pod.
type member struct {
	Name    string `json:"name"` // Docker's
	Sandbox bool   `json:"sandbox,omitempty"`
	Running bool   `json:"running,omitempty"`
	Attempt uint32 `json:"attempt"` // restarts
	// Addresses are those of a running sandbox with a network of its own, sorted; none
	// if they are not known.
	Addresses []string `json:"addresses,omitempty"`
	// HostPorts are PORT/PROTOCOL, sorted.
	HostPorts []string `json:"hostPorts,omitempty"`
}

// snapshot has all members of pods, by ID.
type snapshot struct {
	Members map[string]member `json:"members"`
	// Asked: a CRI server has answered.
	Asked bool `json:"asked,omitempty"`
}

// fromDocker lists what the names of containers show; Docker's names, unlike labels,
// are not the image's.
func (m *migration) fromDocker(ctx context.Context) (*snapshot, error) {
	list, err := m.docker.ContainerList(ctx, filters.NewArgs(filters.Arg("label", translate.LabelType)))
	if err != nil {
		return nil, fmt.Errorf("list of Docker's containers: %w", err)
	}
	ports, err := m.cachedPorts()
	if err != nil {
		return nil, err
	}
	s := &snapshot{Members: map[string]member{}}
	for _, c := range list {
		if len(c.Names) == 0 || c.State == "removing" || c.State == "dead" {
			continue
		}
		name, err := translate.ParseName(c.Names[0])
		if err != nil {
			continue
		}
		p := member{Name: strings.TrimPrefix(c.Names[0], "/"), Sandbox: name.Container == "POD", Running: c.State == "running" || c.State == "paused", Attempt: name.Attempt}
		if p.Sandbox {
			p.HostPorts = ports[c.ID]
			for _, port := range c.Ports {
				if port.PublicPort != 0 {
					p.HostPorts = append(p.HostPorts, fmt.Sprintf("%d/%s", port.PublicPort, strings.ToLower(port.Type)))
				}
			}
			slices.Sort(p.HostPorts)
			p.HostPorts = slices.Compact(p.HostPorts)
		}
		s.Members[c.ID] = p
	}
	return s, nil
}

// cachedPorts returns the host ports in CNI's result cache by container. Both adapters
// use libcni, and release what is recorded there.
func (m *migration) cachedPorts() (map[string][]string, error) {
	ports := map[string][]string{}
	if m.settings.NetworkPlugin != "cni" {
		return ports, nil
	}
	attachments, err := libcni.NewCNIConfigWithCacheDir(nil, m.Root.Path(m.settings.CNICacheDir), nil).GetCachedAttachments("")
	if err != nil {
		return nil, fmt.Errorf("CNI's result cache: %w", err)
	}
	for _, a := range attachments {
		mappings, _ := a.CapabilityArgs["portMappings"].([]any)
		for _, mapping := range mappings {
			fields, _ := mapping.(map[string]any)
			if port, ok := fields["hostPort"].(float64); ok && port > 0 {
				ports[a.ContainerID] = append(ports[a.ContainerID], fmt.Sprintf("%.0f/%v", port, fields["protocol"]))
			}
		}
	}
	return ports, nil
}

// listing is what a CRI server lists: attempts by ID, and addresses of ready sandboxes.
type listing struct {
	attempts  map[string]uint32
	running   map[string]bool
	addresses map[string][]string
}

// ask lists a CRI server's pods. It needs CRI v1.
func (m *migration) ask(ctx context.Context, endpoint string) (*listing, error) {
	conn, err := grpc.NewClient("unix://"+m.Root.Path(nodeconf.SocketPath(endpoint)), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	client := runtimeapi.NewRuntimeServiceClient(conn)
	sandboxes, err := client.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return nil, err
	}
	containers, err := client.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		return nil, err
	}
	l := &listing{attempts: map[string]uint32{}, running: map[string]bool{}, addresses: map[string][]string{}}
	for _, c := range containers.GetContainers() {
		l.attempts[c.GetId()] = c.GetMetadata().GetAttempt()
		l.running[c.GetId()] = c.GetState() == runtimeapi.ContainerState_CONTAINER_RUNNING
	}
	for _, s := range sandboxes.GetItems() {
		l.attempts[s.GetId()] = s.GetMetadata().GetAttempt()
		if s.GetState() != runtimeapi.PodSandboxState_SANDBOX_READY {
			continue
		}
		l.running[s.GetId()] = true
		status, err := client.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: s.GetId()})
		if err != nil {
			return nil, err
		}
		l.addresses[s.GetId()] = addresses(status.GetStatus().GetNetwork())
	}
	return l, nil
}

func addresses(n *runtimeapi.PodSandboxNetworkStatus) []string {
	var all []string
	for _, ip := range append([]*runtimeapi.PodIP{{Ip: n.GetIp()}}, n.GetAdditionalIps()...) {
		if ip.GetIp() != "" {
			all = append(all, ip.GetIp())
		}
	}
	slices.Sort(all)
	return all
}

// record takes a snapshot. The addresses are those of the CRI server, if it answers,
// else the ones in known.
func (m *migration) record(ctx context.Context, endpoint string, known *snapshot) (*snapshot, error) {
	s, err := m.fromDocker(ctx)
	if err != nil {
		return nil, err
	}
	l := &listing{}
	if endpoint != "" {
		if l, err = m.ask(ctx, endpoint); err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			m.note("pods' addresses are compared only where Docker has them: %s does not answer CRI v1 (%v)", endpoint, err)
			l = &listing{}
		}
	}
	s.Asked = l.attempts != nil || known != nil && known.Asked
	for id, p := range s.Members {
		p.Addresses = l.addresses[id]
		if p.Addresses == nil && known != nil {
			p.Addresses = known.Members[id].Addresses
		}
		s.Members[id] = p
	}
	return s, nil
}

// boot returns the ID of this boot.
func (m *migration) boot() string {
	id, _ := m.Root.ReadFile("/proc/sys/kernel/random/boot_id") // it is there where /proc is
	return strings.TrimSpace(id)
}

func (m *migration) recordBefore(ctx context.Context, endpoint string) error {
	if boot := m.boot(); boot != m.journal.Boot { // pods have new addresses
		m.journal.Boot, m.journal.Before, m.journal.After = boot, nil, nil
	}
	s, err := m.record(ctx, endpoint, m.journal.Before)
	if err != nil {
		return err
	}
	if m.journal.After != nil {
		// The way back was left, perhaps as the old adapter had other addresses.
		for id, p := range s.Members {
			if after := m.journal.After.Members[id]; after.Addresses != nil {
				p.Addresses = after.Addresses
				s.Members[id] = p
			}
		}
	}
	m.journal.Before = s
	m.printf("  %s", s)
	return nil
}

// recordAfter records what cridock has, if it came to that.
func (m *migration) recordAfter(ctx context.Context, endpoint string) error {
	if u, err := m.unit(ctx, cridockService); err != nil || !u.Active {
		return err
	}
	s, err := m.record(ctx, endpoint, m.journal.Before)
	if err == nil {
		m.journal.After = s
	}
	return err
}

// compareBack compares the old adapter with the record of recordAfter, else with that
// of recordBefore. If it did not answer then, only Docker is asked.
func (m *migration) compareBack(ctx context.Context, endpoint string) error {
	want := m.journal.After
	if want == nil {
		want = m.journal.Before
	}
	if want == nil || m.journal.Boot != m.boot() {
		return nil // nothing was recorded, or nothing that is still so
	}
	if m.journal.Before == nil || !m.journal.Before.Asked {
		endpoint = ""
	}
	return m.compare(ctx, want, endpoint)
}

// String counts the members.
func (s *snapshot) String() string {
	sandboxes, running, ports := 0, 0, 0
	for _, p := range s.Members {
		switch {
		case p.Sandbox:
			sandboxes++
			ports += len(p.HostPorts)
		case p.Running:
			running++
		}
	}
	return fmt.Sprintf("%d sandboxes with %d host ports, %d containers, of which %d run", sandboxes, ports, len(s.Members)-sandboxes, running)
}

// compare waits until a CRI server lists all members of a snapshot, and compares them.
// Without an endpoint, it compares with Docker alone.
func (m *migration) compare(ctx context.Context, want *snapshot, endpoint string) error {
	var l *listing
	if endpoint != "" {
		var err error
		if l, err = m.awaitListed(ctx, want, endpoint); err != nil {
			return err
		}
	}
	now, err := m.fromDocker(ctx)
	if err != nil {
		return err
	}
	var differ []error
	for _, id := range slices.Sorted(maps.Keys(want.Members)) {
		was, is := want.Members[id], now.Members[id]
		if l != nil {
			is.Addresses = l.addresses[id]
		}
		if _, ok := now.Members[id]; !ok {
			differ = append(differ, fmt.Errorf("%s (%s) is gone", was.Name, id))
			continue
		}
		if was.Running && !is.Running {
			m.note("%s (%s) has exited meanwhile", was.Name, id)
			continue
		}
		differ = append(differ, was.compare(id, is, l != nil))
	}
	if err := errors.Join(differ...); err != nil {
		return fmt.Errorf("pods differ from those before: %w", err)
	}
	m.printf("  the same as before: %s", want)
	return nil
}

// compare reports what differs of a member that still has the state it had.
func (p member) compare(id string, is member, addressed bool) error {
	var differ []error
	if p.Attempt != is.Attempt {
		differ = append(differ, fmt.Errorf("%s (%s): restart count was %d and is %d", p.Name, id, p.Attempt, is.Attempt))
	}
	if slices.ContainsFunc(p.HostPorts, func(port string) bool { return !slices.Contains(is.HostPorts, port) }) {
		differ = append(differ, fmt.Errorf("%s (%s): host ports were %v and are %v", p.Name, id, p.HostPorts, is.HostPorts))
	}
	if addressed && p.Running && !agree(p.Addresses, is.Addresses) {
		differ = append(differ, fmt.Errorf("%s (%s): addresses were %v and are %v", p.Name, id, p.Addresses, is.Addresses))
	}
	return errors.Join(differ...)
}

// agree reports whether two adapters say the same about a pod's addresses. One may
// report only those of one family.
func agree(before, after []string) bool {
	if len(before) == 0 {
		return true // not known
	}
	in := func(some, all []string) bool {
		return len(some) > 0 && !slices.ContainsFunc(some, func(a string) bool { return !slices.Contains(all, a) })
	}
	return in(before, after) || in(after, before)
}

// awaitListed waits until all members are listed with their restart counts, and those
// that Docker has running as running.
func (m *migration) awaitListed(ctx context.Context, want *snapshot, endpoint string) (*listing, error) {
	ctx, cancel := context.WithTimeout(ctx, m.Patience)
	defer cancel()
	for {
		l, err := m.ask(ctx, endpoint)
		if err == nil {
			if err = l.lacks(want); err == nil {
				return l, nil
			}
		}
		if stop := m.pause(ctx); stop != nil {
			return nil, fmt.Errorf("%s: %w (%w)", endpoint, err, stop)
		}
	}
}

// lacks returns an error if some members are not listed.
func (l *listing) lacks(want *snapshot) error {
	var missing []string
	for id, p := range want.Members {
		if attempt, ok := l.attempts[id]; !ok || attempt != p.Attempt {
			missing = append(missing, fmt.Sprintf("%s (%s)", p.Name, id))
		}
	}
	if len(missing) > 0 {
		slices.Sort(missing)
		return fmt.Errorf("%d of %d sandboxes and containers are not listed, or with another restart count: %s", len(missing), len(want.Members), strings.Join(missing[:min(5, len(missing))], ", "))
	}
	return nil
}
