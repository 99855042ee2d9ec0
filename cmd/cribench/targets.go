package main

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/spf13/pflag"

	"github.com/cridock/cridock/cmd/cribench/internal/bench"
	"github.com/cridock/cridock/cmd/cribench/internal/proc"
	"github.com/cridock/cridock/cmd/cribench/internal/target"
)

// dockerName is the name of the target that --docker makes.
const dockerName = "docker"

// targetFlags are the flags that define the targets.
type targetFlags struct {
	targets   []string
	docker    string
	backends  []string
	processes []string
	// cniConf and cniBin connect the sandboxes of docker; without cniConf, they are on
	// Docker's default network.
	cniConf string
	cniBin  []string
}

func (f *targetFlags) add(fs *pflag.FlagSet) {
	fs.StringArrayVar(&f.targets, "target", nil, "NAME=unix:///PATH of a CRI socket; repeat it for each runtime")
	fs.StringVar(&f.docker, "docker", "", "unix:///PATH of a Docker Engine, measured without any CRI as target "+dockerName)
	fs.StringVar(&f.cniConf, "docker-cni-conf", "", "CNI configuration list for the pods of --docker (default: Docker's own network)")
	fs.StringSliceVar(&f.cniBin, "docker-cni-bin", []string{"/opt/cni/bin", "/usr/lib/cni"}, "directories with CNI plugins for --docker-cni-conf")
}

// addProcesses adds the flags that assign processes to targets.
func (f *targetFlags) addProcesses(fs *pflag.FlagSet) {
	fs.StringArrayVar(&f.backends, "backend", nil, "NAME=unix:///PATH of a daemon that target NAME uses: its processes count too")
	fs.StringArrayVar(&f.processes, "process", nil, "NAME=REGEXP: processes whose names match count for target NAME")
}

// open returns the subjects. The caller must close them, even after an error.
func (f *targetFlags) open(opts target.Options, sandbox target.DockerSandbox) ([]bench.Subject, error) {
	var subjects []bench.Subject
	for _, t := range f.targets {
		name, endpoint, err := pair("target", t)
		if err != nil {
			return subjects, err
		}
		c, err := target.NewCRI(name, endpoint, opts)
		if err != nil {
			return subjects, err
		}
		subjects = append(subjects, bench.Subject{Target: c})
	}
	if f.docker != "" {
		d, err := f.openDocker(opts, sandbox)
		if err != nil {
			return subjects, err
		}
		subjects = append(subjects, bench.Subject{Target: d})
	}
	if len(subjects) == 0 {
		return nil, errors.New("nothing to measure: set at least one --target")
	}
	return subjects, f.findProcesses(subjects)
}

func (f *targetFlags) openDocker(opts target.Options, sandbox target.DockerSandbox) (*target.Docker, error) {
	if f.cniConf != "" {
		cni, err := target.NewCNI(f.cniConf, f.cniBin)
		if err != nil {
			return nil, err
		}
		sandbox.CNI = cni
	}
	d, err := target.NewDocker(dockerName, f.docker, sandbox, opts)
	if err != nil && sandbox.CNI != nil {
		err = errors.Join(err, sandbox.CNI.Close())
	}
	return d, err
}

func (f *targetFlags) findProcesses(subjects []bench.Subject) error {
	sets := map[string]*proc.Set{}
	for i, s := range subjects {
		if sets[s.Name()] != nil {
			return fmt.Errorf("two targets have the name %s", s.Name())
		}
		subjects[i].Processes.Sockets = s.Sockets()
		sets[s.Name()] = &subjects[i].Processes
	}
	for _, b := range f.backends {
		name, endpoint, err := pair("backend", b)
		if err != nil {
			return err
		}
		path, err := target.SocketPath(endpoint)
		if err != nil {
			return err
		}
		if sets[name] == nil {
			return fmt.Errorf("backend %q: there is no target %s", b, name)
		}
		sets[name].Sockets = append(sets[name].Sockets, path)
	}
	for _, p := range f.processes {
		name, pattern, err := pair("process", p)
		if err != nil {
			return err
		}
		re, err := regexp.Compile(pattern)
		if err != nil {
			return fmt.Errorf("process %q: %w", p, err)
		}
		if sets[name] == nil {
			return fmt.Errorf("process %q: there is no target %s", p, name)
		}
		sets[name].Names = append(sets[name].Names, re)
	}
	return nil
}

func pair(flag, text string) (name, value string, err error) {
	name, value, ok := strings.Cut(text, "=")
	if !ok || name == "" || value == "" {
		return "", "", fmt.Errorf("--%s %q: want NAME=VALUE", flag, text)
	}
	return name, value, nil
}

func closeAll(subjects []bench.Subject) error {
	var errs []error
	for _, s := range subjects {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}
