package translate

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/blkiodev"
	"github.com/google/go-cmp/cmp"

	"google.golang.org/protobuf/proto"
)

func TestBlockIO(t *testing.T) {
	type annotations = map[string]string
	host := exampleHost
	limit, throttle := []BlockIOLimit{{"/dev/a", 5}}, []*blkiodev.ThrottleDevice{{Path: "/dev/a", Rate: 5}}
	host.BlockIOClasses = map[string]*BlockIOClass{
		"low": {Weight: 80, Weights: []BlockIOLimit{{"/dev/a", 90}}, ReadBps: limit, WriteBps: limit, ReadIOps: limit, WriteIOps: limit}, "mid": {Weight: 200}, "high": {Weight: 900},
	}
	create := func(pod, own annotations, host Host) (*Create, error) {
		req := containerRequest(t)
		sandbox := *req.Sandbox
		sandbox.Annotations = pod
		req.Sandbox, req.Config = &sandbox, proto.CloneOf(req.Config)
		req.Config.Annotations = own
		return DockerContainer(req, host)
	}
	name := containerRequest(t).Config.GetMetadata().GetName()
	for want, a := range map[uint16][2]annotations{
		0:   {{"blockio.resources.beta.kubernetes.io/container.other": "low"}, {"blockio.resources.beta.kubernetes.io/pod": "high"}},
		80:  {{"blockio.resources.beta.kubernetes.io/pod": "low"}, nil},
		200: {{"blockio.resources.beta.kubernetes.io/pod": "low", "blockio.resources.beta.kubernetes.io/container." + name: "mid"}, nil},
		900: {{"blockio.resources.beta.kubernetes.io/container." + name: "mid"}, {"io.kubernetes.cri.blockio-class": "high"}},
	} {
		created, err := create(a[0], a[1], host)
		if err != nil {
			t.Fatal(err)
		}
		r := created.HostConfig.Resources
		if r.BlkioWeight != want || created.Seam != nil {
			t.Errorf("%v: weight %d, want %d", a, r.BlkioWeight, want)
		}
		if want != 80 {
			continue
		}
		if diff := cmp.Diff([]*blkiodev.WeightDevice{{Path: "/dev/a", Weight: 90}}, r.BlkioWeightDevice); diff != "" {
			t.Error(diff)
		}
		for _, got := range [][]*blkiodev.ThrottleDevice{r.BlkioDeviceReadBps, r.BlkioDeviceWriteBps, r.BlkioDeviceReadIOps, r.BlkioDeviceWriteIOps} {
			if diff := cmp.Diff(throttle, got); diff != "" {
				t.Error(diff)
			}
		}
	}
	pod := annotations{"blockio.resources.beta.kubernetes.io/pod": "none"}
	if created, err := create(pod, nil, host); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), `["high" "low" "mid"]`) {
		t.Errorf("an unknown class: %+v, %v", created, err)
	}
	if created, err := create(pod, nil, exampleHost); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "blockio-config-file") {
		t.Errorf("without classes: %+v, %v", created, err)
	}
}
