package network

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/utils"
)

// stateDirName is this package's directory inside libcni's cache root.
const stateDirName = "cridock"

// record is what is on disk about one container on one network: an entry of
// libcni's result cache, or the note of an ADD that did not finish.
type record struct {
	libcni.NetworkAttachment
	// begun is true while there is a note: ADD started and its end was not
	// recorded.
	begun bool
	// result is true when the cache has the result of ADD.
	result bool
}

// note is a cache entry in libcni's format without a result. libcni reads it back.
type note struct {
	Kind           string         `json:"kind"`
	ContainerID    string         `json:"containerId"`
	Config         []byte         `json:"config"`
	IfName         string         `json:"ifName"`
	NetworkName    string         `json:"networkName"`
	NetNS          string         `json:"netns,omitempty"`
	CniArgs        [][2]string    `json:"cniArgs,omitempty"`
	CapabilityArgs map[string]any `json:"capabilityArgs,omitempty"`
}

// entryName returns the file name that libcni gives to a cache entry.
func entryName(network, containerID, ifName string) string {
	return fmt.Sprintf("%s-%s-%s", network, containerID, ifName)
}

func (c *CNI) stateDir() string { return filepath.Join(c.cfg.CacheDir, stateDirName) }

func (c *CNI) notePath(network, containerID, ifName string) string {
	return filepath.Join(c.stateDir(), "results", entryName(network, containerID, ifName))
}

// records returns what is on disk about a container, or about every container if
// containerID is empty, ordered by container, network and interface. If an
// attachment has a result and a note, it returns the result's data. Unreadable
// entries are left out.
func (c *CNI) records(containerID string) ([]record, error) {
	results, err := c.libcni.GetCachedAttachments(containerID)
	if err != nil {
		return nil, fmt.Errorf("read CNI result cache: %w", err)
	}
	notes, err := c.notes.GetCachedAttachments(containerID)
	if err != nil {
		return nil, fmt.Errorf("read notes of pending CNI ADDs: %w", err)
	}
	byName := map[string]record{}
	for _, a := range notes {
		if !namesFile(a) {
			continue
		}
		byName[entryName(a.Network, a.ContainerID, a.IfName)] = record{NetworkAttachment: *a, begun: true}
	}
	for _, a := range results {
		if !namesFile(a) {
			continue
		}
		name := entryName(a.Network, a.ContainerID, a.IfName)
		byName[name] = record{NetworkAttachment: *a, begun: byName[name].begun, result: true}
	}
	all := make([]record, 0, len(byName))
	for _, r := range byName {
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b record) int {
		return cmp.Or(cmp.Compare(a.ContainerID, b.ContainerID),
			cmp.Compare(a.Network, b.Network), cmp.Compare(a.IfName, b.IfName))
	})
	return all, nil
}

// namesFile reports whether libcni can have written an attachment. It refuses
// other identifiers, but would still use them in file names.
func namesFile(a *libcni.NetworkAttachment) bool {
	return utils.ValidateContainerID(a.ContainerID) == nil && utils.ValidateNetworkName(a.Network) == nil &&
		utils.ValidateInterfaceName(a.IfName) == nil
}

// writeNote records an ADD that is about to run.
func (c *CNI) writeNote(list *libcni.NetworkConfigList, rt *libcni.RuntimeConf) error {
	data, err := json.Marshal(note{
		Kind:           libcni.CNICacheV1,
		ContainerID:    rt.ContainerID,
		Config:         list.Bytes,
		IfName:         rt.IfName,
		NetworkName:    list.Name,
		NetNS:          rt.NetNS,
		CniArgs:        rt.Args,
		CapabilityArgs: rt.CapabilityArgs,
	})
	if err != nil {
		return fmt.Errorf("encode note of pending CNI ADD: %w", err)
	}
	path := c.notePath(list.Name, rt.ContainerID, rt.IfName)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("note CNI ADD: %w", err)
	}
	// The draft is outside results/, where it could be read as an entry.
	draft := filepath.Join(c.stateDir(), filepath.Base(path)+".tmp")
	if err := writeFileAtomically(path, draft, data, 0o600); err != nil {
		return fmt.Errorf("note CNI ADD: %w", err)
	}
	return nil
}

// removeNote deletes the note of an ADD; a missing note is not an error.
func (c *CNI) removeNote(network, containerID, ifName string) error {
	err := os.Remove(c.notePath(network, containerID, ifName))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove note of pending CNI ADD: %w", err)
	}
	return nil
}

// removeResult removes an entry of libcni's result cache without a DEL.
func (c *CNI) removeResult(r record) error {
	err := os.Remove(filepath.Join(c.cfg.CacheDir, "results", entryName(r.Network, r.ContainerID, r.IfName)))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove CNI result: %w", err)
	}
	return nil
}

// writeFileAtomically replaces path with a rename of draft, which must be on the
// same filesystem: a reader sees the old content or the new.
func writeFileAtomically(path, draft string, data []byte, mode os.FileMode) error {
	err := os.WriteFile(draft, data, mode)
	if err == nil {
		err = os.Rename(draft, path)
	}
	if err != nil {
		// A full disk leaves a partial file.
		_ = os.Remove(draft)
	}
	return err
}
