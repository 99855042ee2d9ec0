package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/cridock/cridock/shim/engine"
	"github.com/cridock/cridock/shim/register"
	"github.com/cridock/cridock/shim/userns"
)

// runtimeCommand returns the commands that register cridock-runtime with Docker. They
// use the settings that serve would have with the same flags.
func runtimeCommand(o *Options) *cobra.Command {
	r := &register.Registration{}
	group := &cobra.Command{Use: "runtime", Short: "Register cridock-runtime with Docker, for pods with user namespaces", Args: cobra.NoArgs}
	f := group.PersistentFlags()
	f.StringVar(&r.ConfigFile, "daemon-json", "/etc/docker/daemon.json", "dockerd's configuration file")
	f.StringVar(&r.PIDFile, "docker-pid-file", "/var/run/docker.pid", "file with dockerd's PID")
	f.StringVar(&r.Dockerd, "dockerd", "dockerd", "program that validates the configuration, where it can")
	f.StringVar(&r.Binary, "runtime-binary", "", "path of cridock-runtime (default: beside cridock)")
	add := func(use, short string, run func(context.Context) error) {
		group.AddCommand(&cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			docker, err := o.completeRegistration(cmd, r)
			if err != nil {
				return err
			}
			return errors.Join(run(cmd.Context()), docker.Close())
		}})
	}
	add("install", "Register the runtime and have dockerd read its configuration", func(ctx context.Context) error {
		if err := r.Install(ctx); err != nil {
			return err
		}
		fmt.Println("Docker has the runtime cridock. Restart cridock to use it.")
		return nil
	})
	add("remove", "Remove the runtime from Docker's configuration", func(ctx context.Context) error { return r.Remove(ctx) })
	add("status", "Show whether pods can have user namespaces", func(ctx context.Context) error { return runtimeStatus(ctx, r) })
	return group
}

// completeRegistration sets what the settings decide. The caller closes the client.
func (o *Options) completeRegistration(cmd *cobra.Command, r *register.Registration) (*engine.Client, error) {
	if err := o.Complete(cmd.Flags()); err != nil {
		return nil, err
	}
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if r.Binary == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		r.Binary = filepath.Join(filepath.Dir(self), "cridock-runtime")
	}
	docker, err := engine.New(o.DockerEndpoint, nil)
	if err != nil {
		return nil, err
	}
	r.Engine, r.RuntimeDir = docker, o.RuntimeDir
	return docker, nil
}

// runtimeStatus prints the registration and what the node lacks; anything missing is
// an error.
func runtimeStatus(ctx context.Context, r *register.Registration) error {
	s, err := r.Status(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("in %s: %s\nin dockerd: %s\n", r.ConfigFile, orNone(s.InFile), orNone(s.Active))
	if s.Wrong != "" {
		return errors.New(s.Wrong)
	}
	caps, err := r.Engine.Refresh(ctx)
	if err != nil {
		return err
	}
	unmet := userns.New(r.RuntimeDir).Unmet(userns.Engine{RootDir: caps.RootDir, UsernsRemap: caps.UsernsRemap, Rootless: caps.Rootless})
	if unmet != "" {
		return errors.New(unmet)
	}
	fmt.Println("pods can have user namespaces")
	return nil
}

func orNone(path string) string {
	if path == "" {
		return "none"
	}
	return path
}
