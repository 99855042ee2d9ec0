package shim

import "github.com/cridock/cridock/shim/state"

// containerResources is the [limits.Store] in the root directory.
type containerResources struct{ state *state.Store }

// IDs implements [limits.Store].
func (r containerResources) IDs() ([]string, error) { return r.state.ContainersWith(state.Resources) }

// Read implements [limits.Store].
func (r containerResources) Read(containerID string) ([]byte, error) {
	return r.state.Container(containerID).Read(state.Resources)
}

// Write implements [limits.Store].
func (r containerResources) Write(containerID string, document []byte) error {
	return r.state.Container(containerID).Write(state.Resources, document, 0o600)
}

// Remove implements [limits.Store].
func (r containerResources) Remove(containerID string) error {
	return r.state.Container(containerID).Remove(state.Resources)
}

// sandboxResources is the [limits.PodStore] in the root directory.
type sandboxResources struct{ state *state.Store }

// Read implements [limits.PodStore].
func (r sandboxResources) Read(sandboxName string) ([]byte, error) {
	return r.state.Sandbox(sandboxName).Read(state.Resources)
}

// Write implements [limits.PodStore].
func (r sandboxResources) Write(sandboxName string, document []byte) error {
	return r.state.Sandbox(sandboxName).Write(state.Resources, document, 0o600)
}
