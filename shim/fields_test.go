package shim_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/docker/docker/api/types/system"

	"github.com/cridock/cridock/shim/engine/enginetest"
)

// differs are two requests that differ in one field, and so must have different
// outcomes. {pod}, {other}, {main}, {new}, {none} and {dir} stand for two
// running sandboxes, a running and a created container of the first, an unknown
// ID and a directory.
type differs [2]string

// unused is why a field has no effect.
type unused string

const (
	podFilter   = `{"filter":{%s}}`
	execRequest = `{"container_id":"{main}","cmd":["true"],"stdout":true%s}`
)

// requestFields are the fields of all requests, by request and path. Package
// translate has those of the two configurations.
func requestFields() map[string]any {
	filter := func(field string) differs {
		return differs{fmt.Sprintf(podFilter, ""), fmt.Sprintf(podFilter, field)}
	}
	id := func(name, good string) differs {
		return differs{`{"` + name + `":"` + good + `"}`, `{"` + name + `":"{none}"}`}
	}
	all := map[string]any{
		"Version.version": unused("the kubelet's own version; the answer is the same for all"),
		"Status.verbose":  differs{`{}`, `{"verbose":true}`},
		"UpdateRuntimeConfig.runtime_config.network_config.pod_cidr": differs{`{"runtime_config":{"network_config":{"pod_cidr":"10.0.0.0/24"}}}`, `{"runtime_config":{"network_config":{"pod_cidr":"10.0.0.0"}}}`},

		"RunPodSandbox.runtime_handler":            differs{`{"config":{config}}`, `{"config":{config},"runtime_handler":"none"}`},
		"StopPodSandbox.pod_sandbox_id":            id("pod_sandbox_id", "{pod}"),
		"RemovePodSandbox.pod_sandbox_id":          id("pod_sandbox_id", "{pod}"),
		"PodSandboxStatus.pod_sandbox_id":          id("pod_sandbox_id", "{pod}"),
		"PodSandboxStatus.verbose":                 differs{`{"pod_sandbox_id":"{pod}"}`, `{"pod_sandbox_id":"{pod}","verbose":true}`},
		"PodSandboxStats.pod_sandbox_id":           id("pod_sandbox_id", "{pod}"),
		"PortForward.pod_sandbox_id":               id("pod_sandbox_id", "{pod}"),
		"PortForward.port":                         differs{`{"pod_sandbox_id":"{pod}","port":[80]}`, `{"pod_sandbox_id":"{pod}","port":[80000]}`},
		"UpdatePodSandboxResources.pod_sandbox_id": id("pod_sandbox_id", "{pod}"),

		"CreateContainer.pod_sandbox_id":  differs{`{"pod_sandbox_id":"{pod}","config":{container}}`, `{"pod_sandbox_id":"{none}","config":{container}}`},
		"StartContainer.container_id":     id("container_id", "{new}"),
		"StopContainer.container_id":      id("container_id", "{main}"),
		"StopContainer.timeout":           differs{`{"container_id":"{main}"}`, `{"container_id":"{main}","timeout":9}`},
		"RemoveContainer.container_id":    id("container_id", "{main}"),
		"ContainerStatus.container_id":    id("container_id", "{main}"),
		"ContainerStatus.verbose":         differs{`{"container_id":"{main}"}`, `{"container_id":"{main}","verbose":true}`},
		"ContainerStats.container_id":     id("container_id", "{main}"),
		"ReopenContainerLog.container_id": id("container_id", "{main}"),

		"UpdateContainerResources.container_id": id("container_id", "{main}"),
		"UpdateContainerResources.windows":      unused("a Linux node"),
		"UpdateContainerResources.annotations":  unused("containerd hands them to plugins, which Docker does not have"),

		"CheckpointContainer.container_id": differs{`{"container_id":"{new}","location":"{dir}/x.tar"}`, `{"container_id":"{none}","location":"{dir}/x.tar"}`},
		"CheckpointContainer.location":     differs{`{"container_id":"{new}","location":"{dir}/x.tar"}`, `{"container_id":"{new}","location":"x.tar"}`},
		"CheckpointContainer.timeout":      differs{`{"container_id":"{new}","location":"{dir}/x.tar"}`, `{"container_id":"{new}","location":"{dir}/x.tar","timeout":-1}`},

		"ExecSync.container_id": differs{`{"container_id":"{main}","cmd":["true"]}`, `{"container_id":"{none}","cmd":["true"]}`},
		"ExecSync.cmd":          differs{`{"container_id":"{main}","cmd":["true"]}`, `{"container_id":"{main}","cmd":["no-such"]}`},
		"ExecSync.timeout":      differs{`{"container_id":"{main}","cmd":["sleep","1000"],"timeout":1}`, `{"container_id":"{main}","cmd":["sleep","1000"],"timeout":2}`},
		"Exec.container_id":     differs{fmt.Sprintf(execRequest, ""), strings.Replace(fmt.Sprintf(execRequest, ""), "main", "none", 1)},
		"Exec.cmd":              differs{fmt.Sprintf(execRequest, ""), `{"container_id":"{main}","stdout":true}`},
		"Exec.tty":              differs{fmt.Sprintf(execRequest, `,"stderr":true`), fmt.Sprintf(execRequest, `,"stderr":true,"tty":true`)},
		"Exec.stderr":           differs{fmt.Sprintf(execRequest, `,"tty":true`), fmt.Sprintf(execRequest, `,"tty":true,"stderr":true`)},
		"Exec.stdin":            differs{`{"container_id":"{main}","cmd":["true"]}`, `{"container_id":"{main}","cmd":["true"],"stdin":true}`},
		"Exec.stdout":           differs{`{"container_id":"{main}","cmd":["true"]}`, `{"container_id":"{main}","cmd":["true"],"stdout":true}`},
		"Attach.container_id":   differs{`{"container_id":"{main}","stdout":true}`, `{"container_id":"{none}","stdout":true}`},
		"Attach.tty":            differs{`{"container_id":"{main}","stderr":true}`, `{"container_id":"{main}","stderr":true,"tty":true}`},
		"Attach.stderr":         differs{`{"container_id":"{main}"}`, `{"container_id":"{main}","stderr":true}`},
		"Attach.stdin":          differs{`{"container_id":"{main}"}`, `{"container_id":"{main}","stdin":true}`},
		"Attach.stdout":         differs{`{"container_id":"{main}"}`, `{"container_id":"{main}","stdout":true}`},

		"ImageStatus.verbose":             differs{`{"image":{"image":"busybox:1"}}`, `{"image":{"image":"busybox:1"},"verbose":true}`},
		"ImageStatus.image.image":         differs{`{"image":{"image":"busybox:1"}}`, `{"image":{"image":"busybox:2"}}`},
		"RemoveImage.image.image":         differs{`{"image":{"image":"registry.test/app:1"}}`, `{"image":{"image":"registry.test/app:2"}}`},
		"PullImage.image.image":           differs{`{"image":{"image":"registry.test/app:1"}}`, `{"image":{"image":"registry.test/app:2"}}`},
		"PullImage.image.runtime_handler": differs{`{"image":{"image":"registry.test/app:1"}}`, `{"image":{"image":"registry.test/app:1","runtime_handler":"none"}}`},
		"ListImages.filter.image.image":   differs{`{}`, `{"filter":{"image":{"image":"busybox:2"}}}`},
		"StreamImages.filter.image.image": differs{`{}`, `{"filter":{"image":{"image":"busybox:2"}}}`},
	}
	for _, list := range []string{"ListPodSandbox", "StreamPodSandboxes", "ListPodSandboxStats", "StreamPodSandboxStats"} {
		all[list+".filter.id"] = filter(`"id":"{none}"`)
		all[list+".filter.label_selector"] = filter(`"label_selector":{"app":"none"}`)
	}
	for _, list := range []string{"ListContainers", "StreamContainers", "ListContainerStats", "StreamContainerStats"} {
		all[list+".filter.id"] = filter(`"id":"{none}"`)
		all[list+".filter.pod_sandbox_id"] = filter(`"pod_sandbox_id":"{other}"`)
		all[list+".filter.label_selector"] = filter(`"label_selector":{"name":"none"}`)
	}
	for _, list := range []string{"ListPodSandbox", "StreamPodSandboxes"} {
		all[list+".filter.state.state"] = differs{fmt.Sprintf(podFilter, ""), fmt.Sprintf(podFilter, `"state":{"state":"SANDBOX_NOTREADY"}`)}
	}
	for _, list := range []string{"ListContainers", "StreamContainers"} {
		all[list+".filter.state.state"] = differs{fmt.Sprintf(podFilter, ""), fmt.Sprintf(podFilter, `"state":{"state":"CONTAINER_EXITED"}`)}
	}
	for _, spec := range []string{"ImageStatus.image", "RemoveImage.image", "PullImage.image", "ListImages.filter.image", "StreamImages.filter.image"} {
		for _, field := range []string{"annotations", "user_specified_image", "image_ref", "runtime_handler"} {
			if _, ok := all[spec+"."+field]; !ok {
				all[spec+"."+field] = unused("an image is found by its name, and there is one store for all runtimes")
			}
		}
	}
	for field, value := range map[string]string{
		"username": `"username":"u","password":"x"`, "password": `"username":"y","password":"p"`, "auth": `"auth":"dTpw"`,
		"identity_token": `"identity_token":"i"`, "registry_token": `"registry_token":"r"`, "server_address": `"username":"y","password":"x","server_address":"elsewhere.test"`,
	} {
		const pull = `{"image":{"image":"registry.test/app:1"},"auth":{%s}}`
		all["PullImage.auth."+field] = differs{fmt.Sprintf(pull, `"username":"y","password":"x"`), fmt.Sprintf(pull, value)}
	}
	for _, request := range []string{"CheckpointPod.pod_sandbox_id", "CheckpointPod.container_ids", "CheckpointPod.output_path", "CheckpointPod.options",
		"RestorePod.runtime_handler", "RestorePod.checkpoint_path", "RestorePod.options"} {
		all[request] = unused("the call is Unimplemented")
	}
	return all
}

// elsewhere are messages with tables of their own: in package translate, and in
// TestUpdateContainerResources and TestUpdatePodSandboxResources here.
var elsewhere = []protoreflect.Name{"PodSandboxConfig", "ContainerConfig", "LinuxContainerResources", "WindowsContainerResources"}

// leaves visits the fields of a request that are not messages.
func leaves(m protoreflect.MessageDescriptor, prefix string, visit func(path string)) {
	for i := range m.Fields().Len() {
		field := m.Fields().Get(i)
		path := prefix + string(field.Name())
		switch {
		case field.Message() != nil && slices.Contains(elsewhere, field.Message().Name()):
			if strings.HasPrefix(string(field.Message().Name()), "Windows") {
				visit(path)
			}
		case field.Message() == nil || field.IsMap():
			visit(path)
		default:
			leaves(field.Message(), path+".", visit)
		}
	}
}

// TestEveryRequestField goes through the requests of all calls, and checks what
// the table says about each field by sending a request that differs in it.
func TestEveryRequestField(t *testing.T) {
	fields := saidFields(t)
	t.Run("reads", func(t *testing.T) {
		reader := newFieldNode(t, newNode)
		reader.ctx = t.Context() // longer than one test takes
		for _, f := range fields {
			if f.reads() {
				t.Run(f.name, func(t *testing.T) {
					f.check(t, func(request string) string { return reader.outcome(f.method, request) })
				})
			}
		}
	})
	// The reader has been stopped: its periodic work would look like a leak of the others.
	t.Run("changes", func(t *testing.T) {
		for _, f := range fields {
			if !f.reads() {
				t.Run(f.name, func(t *testing.T) { f.check(t, func(request string) string { return f.outcomeAlone(t, request) }) })
			}
		}
	})
}

// saidField is a field of a call's request, and two requests that differ in it.
type saidField struct {
	name   string // METHOD.FIELD
	method protoreflect.MethodDescriptor
	differs
}

// saidFields returns the fields for which the table has requests. It fails the test if
// there is one about which the table says nothing, and the other way round.
func saidFields(t *testing.T) (fields []saidField) {
	t.Helper()
	said := requestFields()
	services := new(runtimeapi.VersionRequest).ProtoReflect().Descriptor().ParentFile().Services()
	for i := range services.Len() {
		methods := services.Get(i).Methods()
		for j := range methods.Len() {
			method := methods.Get(j)
			leaves(method.Input(), "", func(path string) {
				name := string(method.Name()) + "." + path
				switch what := said[name].(type) {
				case differs:
					fields = append(fields, saidField{name, method, what})
				case nil:
					t.Errorf("%s: say what becomes of it", name)
				}
				delete(said, name)
			})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(said)) {
		t.Errorf("%s is not in the CRI any more", name)
	}
	return fields
}

// reads are the calls that do not change the node.
var reads = regexp.MustCompile("^(List|Stream|Exec$|Attach|PortForward|.*Sta(tus|ts)$)")

func (f saidField) reads() bool { return reads.MatchString(string(f.method.Name())) }

// outcomeAlone is the outcome of a request on a node of its own.
func (f saidField) outcomeAlone(t *testing.T, request string) (end string) {
	t.Helper()
	t.Run("request", func(t *testing.T) {
		makeNode := newNode
		if f.method.Name() == "UpdateRuntimeConfig" {
			makeNode = newCNINode // Docker's networks get their addresses from Docker
		}
		end = newFieldNode(t, makeNode).outcome(f.method, request)
	})
	return end
}

// check makes both requests, which must end differently.
func (d differs) check(t *testing.T, outcome func(request string) string) {
	t.Helper()
	first, second := outcome(d[0]), outcome(d[1])
	if first == second {
		t.Errorf("%s\nand\n%s\nboth end with\n%s", d[0], d[1], first)
	}
}

// fieldNode is a node with the objects that requests need.
type fieldNode struct {
	*node
	names, unnamed *strings.Replacer // see differs; and back
	pulls          []string          // the credentials of each pull
}

const fieldImage = "registry.test/app:1"

func newFieldNode(t *testing.T, makeNode func(testing.TB, ...func(*node)) *node) *fieldNode {
	t.Helper()
	f := &fieldNode{}
	n := makeNode(t, func(n *node) {
		n.docker.SetInfo(func(i *system.Info) { i.ExperimentalBuild = true })
		n.docker.Publish(fieldImage, enginetest.Image{Pull: func(_ context.Context, _ func(string), auth string) error {
			f.pulls = append(f.pulls, auth)
			return nil
		}})
	})
	f.node = n
	if n.cni == nil {
		// The fake's PIDs belong to no process, so there would be no usage to read.
		n.engine.pid.Store(int64(os.Getpid()))
		n.engine.app.Store(int64(os.Getpid()))
	}
	config := n.podConfig("pod")
	pod, other := n.runPod(config), n.runPod(n.podConfig("other"))
	main, created := n.runContainer(pod, containerConfig("main", "sleep", "1000")), n.create(pod, containerConfig("new", "sleep", "1"))
	_, err := n.pull(n.ctx, fieldImage, nil)
	n.must(err)
	f.pulls = nil
	config.Metadata.Uid = "third"
	f.names = strings.NewReplacer("{pod}", pod, "{other}", other, "{main}", main, "{new}", created, "{none}", strings.Repeat("ab", 32), "{dir}", n.dir,
		"{config}", n.json(config), "{container}", n.json(containerConfig("third", "sleep", "1")))
	f.unnamed = strings.NewReplacer(pod, "pod", other, "other", main, "main", created, "new", n.dir, "dir")
	return f
}

// volatile matches what differs from call to call.
var volatile = regexp.MustCompile(`"(timestamp|createdAt|startedAt|url|value)":\s*"[^"]*"`)

// outcome is the result of a request: the response, the engine calls that
// change something, and the credentials of pulls.
func (f *fieldNode) outcome(method protoreflect.MethodDescriptor, request string) string {
	f.t.Helper()
	kind, err := protoregistry.GlobalTypes.FindMessageByName(method.Input().FullName())
	f.must(err)
	in := kind.New().Interface()
	f.must(protojson.Unmarshal([]byte(f.names.Replace(request)), in))

	f.docker.ResetCalls()
	unread := strings.Count(f.logs.String(), "Cannot read stats")
	code, answer := f.invoke(method, in)
	end := fmt.Sprint(code, volatile.ReplaceAllString(answer, ""))
	for _, call := range []string{"container create", "container start", "container kill", "container remove", "container update", "exec start", "image pull", "image remove"} {
		end += fmt.Sprintf(" %s %d", call, f.docker.Calls()[call])
	}
	// The fake's pods have no control groups to read: this counts how many were
	// requested.
	end += fmt.Sprint(" unread ", strings.Count(f.logs.String(), "Cannot read stats")-unread)
	return f.unnamed.Replace(end) + strings.Join(f.pulls, " ")
}

func (n *node) json(m proto.Message) string {
	n.t.Helper()
	b, err := protojson.Marshal(m)
	n.must(err)
	return string(b)
}

// invoke makes any call and returns its complete response.
func (n *node) invoke(method protoreflect.MethodDescriptor, in proto.Message) (codes.Code, string) {
	n.t.Helper()
	conn, err := grpc.NewClient("unix://"+filepath.Join(n.dir, "cri.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	n.must(err)
	defer func() { _ = conn.Close() }()
	kind, err := protoregistry.GlobalTypes.FindMessageByName(method.Output().FullName())
	n.must(err)
	name := fmt.Sprintf("/%s/%s", method.Parent().FullName(), method.Name())
	out := kind.New().Interface()
	if !method.IsStreamingServer() {
		err := conn.Invoke(n.ctx, name, in, out)
		return status.Code(err), n.json(out) + fmt.Sprint(status.Convert(err).Message())
	}
	stream, err := conn.NewStream(n.ctx, &grpc.StreamDesc{ServerStreams: true}, name)
	n.must(err)
	n.must(stream.SendMsg(in))
	n.must(stream.CloseSend())
	var all strings.Builder
	for {
		if err = stream.RecvMsg(out); err != nil {
			break
		}
		all.WriteString(n.json(out))
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return status.Code(err), all.String()
}
