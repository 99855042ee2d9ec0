package nri

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/nri/pkg/api"
	"google.golang.org/protobuf/proto"
)

// maxAnswer bounds what all plugins together want of one container, in bytes. It is
// stored, and part of it becomes Docker's and cridock-runtime's.
const maxAnswer = 512 << 10

// Answer is what plugins want of a container that is being created. Its zero value is
// nothing.
type Answer struct {
	adjust *api.ContainerAdjustment
	// unset are the names of removed variables.
	unset  []string
	owners *api.FieldOwners
}

// newAnswer returns the answer to a request. before and after are the container as the
// first plugin got it, and as one after the last would.
func newAnswer(before, after *api.Container, adjust *api.ContainerAdjustment, owners *api.FieldOwners) (*Answer, error) {
	a := &Answer{adjust: adjust, owners: owners}
	if size := proto.Size(adjust); size > maxAnswer {
		return nil, fmt.Errorf("NRI %s: the adjustment has %d bytes; the limit is %d: %w", a.Plugins(), size, maxAnswer, errdefs.ErrAborted)
	}
	left := map[string]bool{}
	for _, text := range after.GetEnv() {
		name, _, _ := strings.Cut(text, "=")
		left[name] = true
	}
	for _, text := range before.GetEnv() {
		name, _, _ := strings.Cut(text, "=")
		if !left[name] && !slices.Contains(a.unset, name) {
			a.unset = append(a.unset, name)
		}
	}
	return a, nil
}

// Empty reports whether there is nothing to adjust.
func (a *Answer) Empty() bool {
	return len(a.unset) == 0 && proto.Equal(compact(a.adjust), &api.ContainerAdjustment{})
}

// compact returns a copy without empty messages, which the library fills in.
func compact(adjust *api.ContainerAdjustment) *api.ContainerAdjustment {
	out := proto.CloneOf(adjust)
	if out == nil {
		return &api.ContainerAdjustment{}
	}
	if proto.Equal(out.Hooks, &api.Hooks{}) {
		out.Hooks = nil
	}
	if l := out.Linux; l != nil {
		if r := l.Resources; r != nil {
			if proto.Equal(r.Memory, &api.LinuxMemory{}) {
				r.Memory = nil
			}
			if proto.Equal(r.Cpu, &api.LinuxCPU{}) {
				r.Cpu = nil
			}
			if proto.Equal(r, &api.LinuxResources{}) {
				l.Resources = nil
			}
		}
		if proto.Equal(l, &api.LinuxContainerAdjustment{}) {
			out.Linux = nil
		}
	}
	return out
}

// refusal is an adjustment that is impossible.
type refusal struct {
	field api.Field
	key   string // of the entry in the field, "" for the field
	why   string
}

func (r *refusal) Error() string { return r.why }

// refuse returns a refusal of a field, or of one entry of it.
func refuse(field api.Field, key, format string, args ...any) error {
	return &refusal{field: field, key: key, why: fmt.Sprintf(format, args...)}
}

// blame adds the plugin to a refusal.
func (a *Answer) blame(r *refusal) error {
	who := a.owner(r.field, r.key)
	what := fieldName(r.field)
	if r.key != "" {
		what += " " + short(r.key)
	}
	return fmt.Errorf("NRI %s: %s: %s: %w", who, what, short(r.why), errdefs.ErrFailedPrecondition)
}

// fieldName returns CgroupsPath as cgroups path.
func fieldName(f api.Field) string {
	var out strings.Builder
	name := f.String()
	for i, c := range name {
		upper := c >= 'A' && c <= 'Z'
		if upper && i > 0 && (name[i-1] < 'A' || name[i-1] > 'Z') {
			out.WriteByte(' ')
		}
		out.WriteRune(c)
	}
	return strings.ToLower(out.String())
}

// owner names the plugin that asked for a field.
func (a *Answer) owner(field api.Field, key string) string {
	if name, ok := a.owners.GetSimple()[int32(field)]; ok {
		return fmt.Sprintf("plugin %q", short(name))
	}
	if name, ok := a.owners.GetCompound()[int32(field)].GetOwners()[key]; ok {
		return fmt.Sprintf("plugin %q", short(name))
	}
	return a.Plugins()
}

// Plugins names all plugins that asked for anything.
func (a *Answer) Plugins() string {
	names := map[string]bool{}
	for _, name := range a.owners.GetSimple() {
		names[short(name)] = true
	}
	for _, owners := range a.owners.GetCompound() {
		for _, name := range owners.GetOwners() {
			names[short(name)] = true
		}
	}
	list := slices.Sorted(maps.Keys(names))
	switch len(list) {
	case 0:
		return "plugin"
	case 1:
		return fmt.Sprintf("plugin %q", list[0])
	}
	return fmt.Sprintf("plugins %q", list)
}
