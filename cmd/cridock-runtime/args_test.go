package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const id = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func TestParse(t *testing.T) {
	const containerd = "--root /run/docker/runtime-cridock/moby --log /b/log.json --log-format json --systemd-cgroup "
	for name, tc := range map[string]struct {
		line string
		want call
	}{
		"create": {containerd + "create --bundle /b --pid-file /b/init.pid " + id,
			call{dir: "/run/cridock", log: "/b/log.json", logFormat: "json", command: "create", id: id, bundle: "/b"}},
		"assigned values": {"--log=/b/log.json --log-format=json create --bundle=/b " + id,
			call{dir: "/run/cridock", log: "/b/log.json", logFormat: "json", command: "create", id: id, bundle: "/b"}},
		"another directory": {"--cridock-dir=/d --log /l create " + id, call{dir: "/d", log: "/l", command: "create", id: id, bundle: "."}},
		"exec":              {containerd + "exec --process /b/process --detach --pid-file /b/x.pid " + id, call{dir: "/run/cridock", log: "/b/log.json", logFormat: "json", command: "exec", id: id, bundle: ".", process: "/b/process"}},
		"exec, assigned":    {"exec --process=/b/process " + id, call{dir: "/run/cridock", command: "exec", id: id, bundle: ".", process: "/b/process"}},
		"exec, in short":    {"exec -d -p /b/process " + id + " --process /other", call{dir: "/run/cridock", command: "exec", id: id, bundle: ".", process: "/b/process"}},
		"exec of a command": {"exec " + id + " sh", call{dir: "/run/cridock", command: "exec", id: id, bundle: "."}},
		"delete":            {"--root /r delete --force " + id, call{dir: "/run/cridock", command: "delete", id: id, bundle: "."}},
		"kill":              {"kill --all " + id + " 9", call{dir: "/run/cridock", command: "kill", id: id, bundle: "."}},
		"features":          {"features", call{dir: "/run/cridock", command: "features", bundle: "."}},
		"version":           {"--version", call{dir: "/run/cridock", bundle: "."}},
		"a flag's value that is a command": {"--root create --log delete state " + id,
			call{dir: "/run/cridock", log: "delete", command: "state", id: id, bundle: "."}},
	} {
		t.Run(name, func(t *testing.T) {
			args := strings.Fields(tc.line)
			got, err := parse(args)
			if err != nil {
				t.Fatal(err)
			}
			for _, arg := range args {
				if !strings.HasPrefix(arg, "--cridock-dir") {
					tc.want.args = append(tc.want.args, arg)
				}
			}
			if diff := cmp.Diff(tc.want, *got, cmp.AllowUnexported(call{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	for name, line := range map[string]string{
		"a flag that may hide the command": "--new-flag create create --bundle /b " + id,
		"create without ID":                "create --bundle /b",
		"create of a short ID":             "create --bundle /b " + id[:12],
		"create with more after the ID":    "create " + id + " --bundle",
		"a flag without value":             "--root",
		"a relative directory":             "--cridock-dir=run create " + id,
		"a directory apart":                "--cridock-dir /d create " + id,
	} {
		t.Run(name, func(t *testing.T) {
			c, err := parse(append([]string{"--log", "/l"}, strings.Fields(line)...))
			if err == nil {
				t.Error("it is accepted")
			}
			if c.log != "/l" {
				t.Errorf("the error would go to log %q", c.log)
			}
		})
	}
}
