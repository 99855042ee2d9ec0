package engine

// Deprecation is something of the node that works now and will stop working with a
// later release of Kubernetes or cridock.
type Deprecation struct {
	// Name is stable, for programs.
	Name string `json:"name"`
	// Why is one sentence about what is deprecated, Cure one about what to do.
	Why  string `json:"why"`
	Cure string `json:"cure"`
}

// The names of deprecations.
const (
	DeprecatedCgroupV1 = "cgroup-v1"
	DeprecatedEngine   = "engine"
)

// oldestCurrentAPI is Docker 25.0's: the oldest that Docker 29 still speaks.
const oldestCurrentAPI = "1.44"

// Deprecations returns what is deprecated about the engine and its node, in a fixed
// order; nil if nothing is, or before the first Refresh.
func (c *Capabilities) Deprecations() []Deprecation {
	if c == nil {
		return nil
	}
	var found []Deprecation
	if !c.CgroupV2 {
		found = append(found, Deprecation{
			Name: DeprecatedCgroupV1,
			Why:  "The node has cgroup v1, on which kubelets from 1.35 on do not start by default.",
			Cure: "Boot with systemd.unified_cgroup_hierarchy=1, or set failCgroupV1: false for the kubelet.",
		})
	}
	if !c.AtLeast(oldestCurrentAPI) {
		found = append(found, Deprecation{
			Name: DeprecatedEngine,
			Why: "Docker " + c.EngineVersion + " speaks API " + c.APIVersion +
				"; Docker's own programs have dropped what is older than 25.0 (API 1.44), and a later cridock may.",
			Cure: "Upgrade to Docker 25.0 or later.",
		})
	}
	return found
}

// Deprecated returns the deprecation of that name, if it applies.
func (c *Capabilities) Deprecated(name string) (d Deprecation, ok bool) {
	for _, d := range c.Deprecations() {
		if d.Name == name {
			return d, true
		}
	}
	return Deprecation{}, false
}
