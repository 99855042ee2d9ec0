package seam

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
)

// Version is the latest version of records that this package writes, and it reads
// all earlier ones: containers outlive an upgrade. A record has the lowest version that
// has its fields, so that an earlier cridock-runtime reads what it can apply and
// refuses the rest.
const Version = 5

const (
	usernsVersion = 1 // user namespaces and id-mapped mounts
	limitsVersion = 2 // resources, mount options, hooks
	fieldsVersion = 3 // annotations, devices, cgroups to write to, a shared UTS namespace, images, network namespaces, other parts
	execVersion   = 4 // the CPU of exec sessions
	dropVersion   = 5 // mounts to drop
)

// RuntimeName is the name of cridock-runtime in Docker's configuration.
const RuntimeName = "cridock"

// Record says how to change one container's OCI bundle.
type Record struct {
	// Version is at most [Version]; [Record.Encode] sets it.
	Version int `json:"version"`
	// ID is the container's full Docker ID, and the record's file name.
	ID string `json:"id"`
	// Runtime is the runtime to execute with the changed bundle.
	Runtime Runtime `json:"runtime"`
	// UserNamespace is the container's own or its pod's user namespace; nil for the one
	// that the bundle has.
	UserNamespace *UserNamespace `json:"userNamespace,omitempty"`
	// MappedMounts are the destinations of bind mounts to id-map with the mappings of
	// UserNamespace, so that files keep their owners inside. Each must be in the bundle.
	MappedMounts []string `json:"mappedMounts,omitempty"`
	// MappedFiles are the same for files that the engine may add by itself, such as
	// /etc/hosts. They need not be in the bundle.
	MappedFiles []string `json:"mappedFiles,omitempty"`
	// Images are mounts of MappedMounts that show an image.
	Images []Image `json:"images,omitempty"`
	// Resources are limits that replace those in the bundle; nil for none. Without
	// limits it is still something to change: a container that was updated before its
	// start may need no more.
	Resources *Resources `json:"resources,omitempty"`
	// MountOptions maps destinations of bind mounts, which must be in the bundle, to
	// options of [MountOptions] to add.
	MountOptions map[string][]string `json:"mountOptions,omitempty"`
	// Hooks are executed after those in the bundle.
	Hooks []Hook `json:"hooks,omitempty"`
	// Network is nil to leave the container's network namespace to the engine.
	Network *Network `json:"network,omitempty"`
	// Annotations are added to those in the bundle, and replace them.
	Annotations map[string]string `json:"annotations,omitempty"`
	// Devices is nil for those in the bundle.
	Devices *Devices `json:"devices,omitempty"`
	// WritableCgroups makes the container's cgroup file system writable. The container
	// must have a cgroup namespace of its own.
	WritableCgroups bool `json:"writableCgroups,omitempty"`
	// UTS is a process, with its UTS namespace, to share that with; nil for the bundle's.
	UTS *Process `json:"uts,omitempty"`
	// Spec is applied once Devices are changed, and before all that depends on devices
	// and namespaces; nil for none.
	Spec *Spec `json:"spec,omitempty"`
	// ExecCPU is the number of the CPU on which processes of exec sessions start; nil for
	// any. The real runtime must know process.execCPUAffinity.
	ExecCPU *int `json:"execCPU,omitempty"`
	// DroppedMounts are the destinations of anonymous volumes of the engine's that the
	// container does not get. Each must be in the bundle, and nothing else there.
	DroppedMounts []string `json:"droppedMounts,omitempty"`
}

// RecursiveReadOnly is the mount option that makes a mount and all mounts below it
// read-only. It replaces "ro". A runtime that does not know it leaves the mount
// writable.
const RecursiveReadOnly = "rro"

// MountOptions are the options that a record can add to a mount.
var MountOptions = []string{"noexec", "nodev", "nosuid", RecursiveReadOnly}

// Runtime is an OCI runtime as in Docker's configuration.
type Runtime struct {
	// Path is absolute, or a name to look up in PATH as Docker does.
	Path string `json:"path"`
	// Args precede the arguments of each call.
	Args []string `json:"args,omitempty"`
}

// Image is a mount of an image, whose layers are id-mapped: an overlay can't be.
type Image struct {
	// Destination is one of the record's MappedMounts.
	Destination string `json:"destination"`
	// Layers are the directories of the image's layers, the uppermost first; empty if the
	// mount itself says where they are.
	Layers []string `json:"layers,omitempty"`
}

// UserNamespace is a user namespace to create or to join.
type UserNamespace struct {
	UIDs []Mapping `json:"uids"`
	GIDs []Mapping `json:"gids"`
	// Join is the process whose user namespace to join; nil to create one.
	Join *Process `json:"join,omitempty"`
}

// Process is a sandbox's process in a namespace to join.
type Process struct {
	PID int `json:"pid"`
	// Device and Inode identify the namespace, since PIDs are reused.
	Device uint64 `json:"device"`
	Inode  uint64 `json:"inode"`
}

// Mapping maps Size IDs, from ContainerID on, to those of the host from HostID on.
type Mapping struct {
	ContainerID uint32 `json:"containerID"`
	HostID      uint32 `json:"hostID"`
	Size        uint32 `json:"size"`
}

const (
	// maxRecord bounds the size of an encoded record in bytes.
	maxRecord = 1 << 20
	// idCount is the number of user IDs; the last one is not an ID (-1).
	idCount = 1<<32 - 1
	// maxCPU is the highest number of a CPU in any kernel.
	maxCPU = 1<<16 - 1
	// maxMappings is the kernel's limit.
	maxMappings = 340
)

// needs returns the lowest version that has the fields of r.
func (r *Record) needs() int {
	if len(r.DroppedMounts) > 0 {
		return dropVersion
	}
	if r.ExecCPU != nil {
		return execVersion
	}
	if len(r.Annotations) > 0 || r.Devices != nil || r.WritableCgroups || r.UTS != nil || len(r.Images) > 0 || r.Network != nil || r.Spec != nil {
		return fieldsVersion
	}
	if r.Resources != nil || len(r.MountOptions)+len(r.Hooks) > 0 {
		return limitsVersion
	}
	return usernsVersion
}

// Encode validates r and returns its text, with the lowest version that has its
// fields.
func (r Record) Encode() ([]byte, error) {
	r.Version = r.needs()
	if err := r.Validate(); err != nil {
		return nil, err
	}
	b, err := json.Marshal(r)
	if err == nil && len(b) > maxRecord {
		err = fmt.Errorf("record of container %s: %d bytes long; the limit is %d", r.ID, len(b), maxRecord)
	}
	return b, err
}

// Decode reads the text of a record. A later version, a field that is unknown or later
// than the version, anything after the record and invalid content are errors.
func Decode(b []byte) (*Record, error) {
	if len(b) > maxRecord {
		return nil, fmt.Errorf("record: %d bytes long; the limit is %d", len(b), maxRecord)
	}
	// First the version: another one explains an unknown field.
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return nil, fmt.Errorf("record: %w", err)
	}
	if head.Version < usernsVersion || head.Version > Version {
		return nil, fmt.Errorf("record: version %d; this cridock-runtime reads up to version %d: install cridock and cridock-runtime of the same release", head.Version, Version)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	r := new(Record)
	if err := d.Decode(r); err != nil {
		return nil, fmt.Errorf("record: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("record: something follows it")
	}
	return r, r.Validate()
}

// Validate reports the first thing that cridock-runtime would refuse.
func (r *Record) Validate() error {
	var err error
	switch {
	case r.Version < r.needs() || r.Version > Version:
		err = fmt.Errorf("version %d, want %d to %d", r.Version, r.needs(), Version)
	case !IsID(r.ID):
		err = fmt.Errorf("%q is not a container ID", r.ID)
	case !r.changes():
		err = errors.New("nothing to change")
	case r.UserNamespace != nil && r.Network != nil && r.Network.Namespace != "":
		// It would have to belong to the user namespace, which does not exist yet.
		err = errors.New("a user namespace with an existing network namespace")
	case r.UserNamespace == nil && len(r.MappedMounts)+len(r.MappedFiles) > 0:
		err = errors.New("mounts to id-map without a user namespace")
	case r.ExecCPU != nil && (*r.ExecCPU < 0 || *r.ExecCPU > maxCPU):
		err = fmt.Errorf("%d is not the number of a CPU", *r.ExecCPU)
	default:
		err = errors.Join(r.Runtime.validate(), r.UserNamespace.validate(), validateDestinations(r.MappedMounts, r.MappedFiles), r.validateDropped(), r.Resources.validate(), validateMountOptions(r.MountOptions), ValidateHooks(r.Hooks), validateAnnotations(r.Annotations), r.Devices.validate(), r.UTS.validate(), validateImages(r.Images, r.MappedMounts), r.Network.validate(), r.Spec.Validate())
	}
	if err != nil {
		return fmt.Errorf("record of container %q: %w", r.ID, err)
	}
	return nil
}

// changes reports whether there is anything to change.
func (r *Record) changes() bool {
	return r.UserNamespace != nil || r.needs() > usernsVersion
}

func (r Runtime) validate() error {
	name := !strings.Contains(r.Path, "/") && r.Path != "" && r.Path != "." && r.Path != ".."
	if strings.ContainsRune(r.Path, 0) || !name && (!path.IsAbs(r.Path) || path.Clean(r.Path) != r.Path) {
		return fmt.Errorf("runtime %q: want a name or a clean absolute path", r.Path)
	}
	for _, arg := range r.Args {
		if strings.ContainsRune(arg, 0) {
			return fmt.Errorf("argument %q of the runtime contains a NUL", arg)
		}
	}
	return nil
}

func (u *UserNamespace) validate() error {
	if u == nil {
		return nil
	}
	if err := errors.Join(ValidateMappings(u.UIDs), ValidateMappings(u.GIDs)); err != nil {
		return err
	}
	return u.Join.validate()
}

func (p *Process) validate() error {
	if p != nil && (p.PID <= 1 || p.Inode == 0) {
		return fmt.Errorf("process %d cannot be a sandbox's, or its namespace is unknown", p.PID)
	}
	return nil
}

// ValidateMappings checks the mappings of a user namespace: they map the
// container's root, not the host's root, and no ID twice.
func ValidateMappings(mappings []Mapping) error {
	if len(mappings) > maxMappings {
		return fmt.Errorf("%d mappings; the kernel's limit is %d", len(mappings), maxMappings)
	}
	root := false
	for i, m := range mappings {
		switch {
		case m.Size == 0:
			return fmt.Errorf("mapping %v is empty", m)
		case uint64(m.ContainerID)+uint64(m.Size) > idCount || uint64(m.HostID)+uint64(m.Size) > idCount:
			return fmt.Errorf("mapping %v exceeds the range of IDs", m)
		case m.HostID == 0:
			return fmt.Errorf("mapping %v contains the host's root", m)
		}
		root = root || m.ContainerID == 0
		for _, other := range mappings[:i] {
			if overlap(m.ContainerID, m.Size, other.ContainerID, other.Size) || overlap(m.HostID, m.Size, other.HostID, other.Size) {
				return fmt.Errorf("mappings %v and %v overlap", other, m)
			}
		}
	}
	if !root {
		return fmt.Errorf("mappings %v do not contain ID 0 of the container", mappings)
	}
	return nil
}

func overlap(a, aSize, b, bSize uint32) bool {
	return uint64(a) < uint64(b)+uint64(bSize) && uint64(b) < uint64(a)+uint64(aSize)
}

// Root returns the host's ID of the container's root. The mappings must be valid.
func Root(mappings []Mapping) uint32 {
	for _, m := range mappings {
		if m.ContainerID == 0 {
			return m.HostID
		}
	}
	return 0
}

func validateDestinations(lists ...[]string) error {
	seen := map[string]bool{}
	for _, list := range lists {
		for _, d := range list {
			if !path.IsAbs(d) || path.Clean(d) != d || d == "/" || strings.ContainsRune(d, 0) {
				return fmt.Errorf("mount destination %q: want a clean absolute path other than /", d)
			}
			if seen[d] {
				return fmt.Errorf("mount destination %q is listed twice", d)
			}
			seen[d] = true
		}
	}
	return nil
}

// validateDropped refuses to drop a mount that is changed as well.
func (r *Record) validateDropped() error {
	return errors.Join(validateDestinations(r.DroppedMounts, r.MappedMounts), validateDestinations(r.DroppedMounts, slices.Collect(maps.Keys(r.MountOptions))))
}

func validateMountOptions(mounts map[string][]string) error {
	destinations := slices.Sorted(maps.Keys(mounts))
	if err := validateDestinations(destinations); err != nil {
		return err
	}
	for _, d := range destinations {
		if len(mounts[d]) == 0 {
			return fmt.Errorf("mount on %q has no options to add", d)
		}
		for i, option := range mounts[d] {
			if !slices.Contains(MountOptions, option) || slices.Contains(mounts[d][:i], option) {
				return fmt.Errorf("option %q of the mount on %q is listed twice or not one of %q", option, d, MountOptions)
			}
		}
	}
	return nil
}

func validateAnnotations(annotations map[string]string) error {
	if _, ok := annotations[""]; ok {
		return errors.New("an annotation has no name")
	}
	return nil
}

func validateImages(images []Image, mapped []string) error {
	destinations := make([]string, len(images))
	for i, m := range images {
		destinations[i] = m.Destination
		if !slices.Contains(mapped, m.Destination) {
			return fmt.Errorf("image on %q: not a mount to id-map", m.Destination)
		}
		for _, layer := range m.Layers {
			if !path.IsAbs(layer) || path.Clean(layer) != layer || layer == "/" || strings.ContainsRune(layer, 0) {
				return fmt.Errorf("image on %q: layer %q: want a clean absolute path", m.Destination, layer)
			}
		}
	}
	return validateDestinations(destinations)
}

// IsID reports whether s is a full Docker container ID.
func IsID(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}
