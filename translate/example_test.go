package translate_test

import (
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/translate"
)

// A container of a pod becomes a Docker container that joins the namespaces of
// the pod's sandbox.
func ExampleDockerContainer() {
	sandboxID := strings.Repeat("5a0db0f0", 8)
	user, err := translate.ResolveUser(nil, "1000", nil, nil) // the image's user
	if err != nil {
		fmt.Println(err)
		return
	}
	create, err := translate.DockerContainer(translate.ContainerRequest{
		Config: &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: "web"},
			Image:    &runtimeapi.ImageSpec{Image: "busybox"},
			Command:  []string{"httpd", "-f"},
			Linux: &runtimeapi.LinuxContainerConfig{
				Resources: &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 64 << 20},
			},
		},
		Sandbox: &translate.Sandbox{
			ID:       sandboxID,
			Metadata: &runtimeapi.PodSandboxMetadata{Name: "shop", Namespace: "default", Uid: "b2c1"},
		},
		Image: translate.Image{ID: "sha256:1a6e"},
		User:  user,
	}, translate.Host{CgroupDriver: "cgroupfs"})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(create.Name)
	fmt.Println(create.Config.Image, create.Config.Entrypoint, create.Config.User)
	fmt.Println(create.HostConfig.NetworkMode.ConnectedContainer() == sandboxID, create.HostConfig.IpcMode.Container() == sandboxID)
	fmt.Println(create.HostConfig.Memory)
	// Output:
	// k8s_web_shop_default_b2c1_0
	// sha256:1a6e [httpd -f] 1000:0
	// true true
	// 67108864
}

// What the engine cannot do is refused; the error names the field.
func ExampleDockerSandbox() {
	_, err := translate.DockerSandbox(translate.SandboxRequest{
		Config: &runtimeapi.PodSandboxConfig{
			Metadata: &runtimeapi.PodSandboxMetadata{Name: "shop", Namespace: "default", Uid: "b2c1"},
			Linux: &runtimeapi.LinuxPodSandboxConfig{
				SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
					NamespaceOptions: &runtimeapi.NamespaceOption{
						Network: runtimeapi.NamespaceMode_TARGET,
					},
				},
			},
		},
		ImageID: "sha256:9a05e0",
	}, translate.Host{CgroupDriver: "cgroupfs"})
	fmt.Println(errors.Is(err, errdefs.ErrInvalidArgument))
	fmt.Println(err)
	// Output:
	// true
	// linux.security_context.namespace_options.network: invalid argument: a sandbox can't have mode TARGET
}

// The kubelet and Docker write image names differently.
func ExampleNormalizeImage() {
	for _, name := range []string{"busybox", "registry.test:5000/team/app:v2", "docker-pullable://busybox:1.36"} {
		ref, err := translate.NormalizeImage(name)
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(ref)
	}
	// Output:
	// docker.io/library/busybox:latest
	// registry.test:5000/team/app:v2
	// docker.io/library/busybox:1.36
}

// A container's Docker name contains the parts of its identity.
func ExampleParseName() {
	name, err := translate.ParseName("k8s_web_shop_default_b2c1_3")
	fmt.Println(name.Namespace, name.Pod, name.Container, name.Attempt, err)
	// Output: default shop web 3 <nil>
}

// Interfaces exist only after CNI has run, so their sysctls are written then.
func ExampleInterfaceSysctls() {
	atCreate, afterCNI := translate.InterfaceSysctls(map[string]string{
		"net.core.somaxconn":              "1024",
		"net.ipv4.conf.eth0.arp_announce": "2",
	})
	fmt.Println(atCreate)
	fmt.Println(afterCNI)
	// Output:
	// map[net.core.somaxconn:1024]
	// map[net.ipv4.conf.eth0.arp_announce:2]
}
