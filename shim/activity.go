package shim

import (
	"cmp"
	"context"
	"path"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/shim/index"
	"github.com/cridock/cridock/shim/logs"
	"github.com/cridock/cridock/translate"
)

// The keys of documents in the info of a verbose StatusResponse.
const (
	// ActivityInfo is the key of an [Activity].
	ActivityInfo = "activity"
	// DeprecationsInfo is the key of a list of [engine.Deprecation]; the key is
	// missing until Docker has been reached once.
	DeprecationsInfo = "deprecations"
)

// Activity is what a service knows and does at one moment. Its JSON is stable:
// fields may be added, but do not change.
type Activity struct {
	Version string    `json:"version"` // cridock's own
	Time    time.Time `json:"time"`
	Started time.Time `json:"started"`

	Docker     DockerActivity    `json:"docker"`
	Pods       PodActivity       `json:"pods"`
	Containers ContainerActivity `json:"containers"`
	Logs       LogActivity       `json:"logs"`
	Operations []Operation       `json:"operations"` // oldest first; not nil
	Sessions   map[string]int    `json:"sessions"`   // open streaming sessions, by exec, attach and portforward
}

// DockerActivity describes the connection to Docker.
type DockerActivity struct {
	Connected bool      `json:"connected"`
	Since     time.Time `json:"since"` // of Connected's value
	// EngineVersion and APIVersion are those of the last connection; empty before the
	// first.
	EngineVersion string `json:"engineVersion"`
	APIVersion    string `json:"apiVersion"`
	// LastError is why the connection was last lost or not made; it stays when the
	// connection is back.
	LastError     string     `json:"lastError,omitempty"`
	LastErrorTime *time.Time `json:"lastErrorTime,omitempty"`
}

// PodActivity counts the pods' sandboxes, as last seen.
type PodActivity struct {
	Ready    int `json:"ready"`
	NotReady int `json:"notReady"`
}

// ContainerActivity counts the containers of pods, as last seen.
type ContainerActivity struct {
	Created int `json:"created"`
	Running int `json:"running"`
	Exited  int `json:"exited"`
	Unknown int `json:"unknown"`
}

// LogActivity describes the conversion of Docker's logs.
type LogActivity struct {
	Followed int `json:"followed"`
	// Troubled is the number of logs whose last attempt failed. A pod can cause it,
	// with a link in its log directory.
	Troubled int `json:"troubled"`
	// Streamed is the number of logs read from Docker's API, whose lag is unknown.
	Streamed int `json:"streamed"`
	// LagBytes is what Docker has logged and the CRI logs do not have yet, and
	// MostBehind the ID of the container with the most of it.
	LagBytes        int64  `json:"lagBytes"`
	MostBehind      string `json:"mostBehind,omitempty"`
	MostBehindBytes int64  `json:"mostBehindBytes,omitempty"`
}

// Operation is a change in progress, whether its caller still waits or not.
type Operation struct {
	// Kind is the RPC, or maintenance for cridock's own work after its start.
	Kind string `json:"kind"`
	// Object is what it changes: a pod as namespace/name/uid, the ID of a container,
	// or an image.
	Object string    `json:"object"`
	Since  time.Time `json:"since"`
	// AgeSeconds is the time from Since to [Activity].Time.
	AgeSeconds float64 `json:"ageSeconds"`
}

// activity describes the service. It makes no call to Docker and waits for nothing;
// it reads the sizes of the followed logs.
func (s *Service) activity(now time.Time) *Activity {
	a := &Activity{
		Version: s.cfg.Version, Time: now, Started: s.created,
		Docker: dockerActivity(s.index.Link(), s.Host()), Logs: logActivity(s.logs.Stats()), Operations: s.operationsAt(now), Sessions: s.sessions.counts(),
	}
	sandboxes, containers := s.index.Known()
	for _, sb := range sandboxes {
		if s.networks.Ready(sb) {
			a.Pods.Ready++
		} else {
			a.Pods.NotReady++
		}
	}
	for _, c := range containers {
		switch c.State {
		case runtimeapi.ContainerState_CONTAINER_CREATED:
			a.Containers.Created++
		case runtimeapi.ContainerState_CONTAINER_RUNNING:
			a.Containers.Running++
		case runtimeapi.ContainerState_CONTAINER_EXITED:
			a.Containers.Exited++
		default:
			a.Containers.Unknown++
		}
	}
	return a
}

func dockerActivity(link index.Link, host translate.Host) DockerActivity {
	d := DockerActivity{Connected: link.Connected, Since: link.Since, EngineVersion: host.EngineVersion, APIVersion: host.APIVersion}
	if link.LastError != nil {
		d.LastError, d.LastErrorTime = link.LastError.Error(), &link.LastAt
	}
	return d
}

func logActivity(l logs.Stats) LogActivity {
	return LogActivity{
		Followed: l.Containers, Troubled: l.Troubled, Streamed: l.Streamed,
		LagBytes: l.LagBytes, MostBehind: l.MostBehind, MostBehindBytes: l.MostBehindBytes,
	}
}

func (s *Service) operationsAt(now time.Time) []Operation {
	list := append(s.work.list(), s.stops.running()...)
	for _, p := range s.images.puller.Running() {
		list = append(list, Operation{Kind: "PullImage", Object: p.Image, Since: p.Since})
	}
	for i := range list {
		list[i].AgeSeconds = max(0, now.Sub(list[i].Since)).Round(time.Millisecond).Seconds()
	}
	slices.SortFunc(list, func(a, b Operation) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Object, b.Object))
	})
	return list
}

// operationKind returns the name of the RPC in whose context an operation runs.
func operationKind(ctx context.Context) string {
	method, ok := grpc.Method(ctx)
	if !ok {
		return "maintenance"
	}
	return path.Base(method)
}

// sessions counts the open streaming sessions by kind. The zero value is ready.
type sessions struct {
	mu   sync.Mutex
	kind map[string]int
}

// open counts a session until the returned function is called.
func (s *sessions) open(kind string) (end func()) {
	s.add(kind, 1)
	return func() { s.add(kind, -1) }
}

func (s *sessions) add(kind string, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kind == nil {
		s.kind = map[string]int{}
	}
	s.kind[kind] += n
}

func (s *sessions) counts() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	counts := map[string]int{"exec": 0, "attach": 0, "portforward": 0}
	for kind, n := range s.kind {
		counts[kind] = n
	}
	return counts
}
