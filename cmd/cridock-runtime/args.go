package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cridock/cridock/internal/seam"
)

// call is what the command line says.
type call struct {
	dir            seam.Dir
	log, logFormat string
	command        string
	id             string // "" if the command has no container
	bundle         string // of create
	process        string // of exec, the file with the process; "" for none
	args           []string
}

// globalFlags are the flags of runc and crun that may precede the command, and
// whether a value follows.
var globalFlags = map[string]bool{
	"root": true, "log": true, "log-format": true, "criu": true, "rootless": true, "cgroup-manager": true,
	"debug": false, "systemd-cgroup": false, "help": false, "h": false, "version": false, "v": false,
}

// dirFlag is the only flag of cridock-runtime itself.
const dirFlag = "cridock-dir"

// parse reads a command line as runc does. It returns what it has read even with an
// error, so that the error reaches the log. A flag before the command that it does not
// know is an error: it could hide the command.
func parse(args []string) (*call, error) {
	c := &call{dir: seam.DefaultDir, bundle: "."}
	for len(args) > 0 && c.command == "" {
		name, value, taken, err := cut(args)
		if err != nil {
			return c, err
		}
		switch name {
		case "":
			c.command = args[0]
		case dirFlag:
			c.dir = seam.Dir(value)
			args = args[taken:]
			continue
		case "log":
			c.log = value
		case "log-format":
			c.logFormat = value
		}
		c.args, args = append(c.args, args[:taken]...), args[taken:]
	}
	c.args = append(c.args, args...)
	if !strings.HasPrefix(string(c.dir), "/") {
		return c, fmt.Errorf("--%s=%s: want an absolute path", dirFlag, c.dir)
	}
	if i := slices.IndexFunc(args, seam.IsID); i >= 0 {
		c.id = args[i]
		if c.command == "exec" {
			c.process = lastValue(args[:i], "process", "p")
		}
	}
	if c.command != "create" {
		return c, nil
	}
	return c, c.parseCreate(args)
}

// lastValue returns the value of a command's flag with either name; "" for none.
func lastValue(args []string, name, short string) (value string) {
	for i, arg := range args {
		switch {
		case (arg == "--"+name || arg == "-"+short) && i+1 < len(args):
			value = args[i+1]
		case strings.HasPrefix(arg, "--"+name+"="):
			value = strings.TrimPrefix(arg, "--"+name+"=")
		}
	}
	return value
}

// cut reads the first argument: the name of a flag and its value, or no name. taken
// is the number of arguments.
func cut(args []string) (name, value string, taken int, err error) {
	name = strings.TrimPrefix(strings.TrimPrefix(args[0], "-"), "-")
	if name == args[0] {
		return "", "", 1, nil
	}
	name, value, assigned := strings.Cut(name, "=")
	hasValue, known := globalFlags[name]
	switch {
	case name == dirFlag && assigned:
		return name, value, 1, nil
	case !known:
		return "", "", 0, fmt.Errorf("unknown flag %s", args[0])
	case assigned || !hasValue:
		return name, value, 1, nil
	case len(args) < 2:
		return "", "", 0, fmt.Errorf("flag %s has no value", args[0])
	}
	return name, args[1], 2, nil
}

// parseCreate reads the arguments of create.
func (c *call) parseCreate(args []string) error {
	if len(args) == 0 || !seam.IsID(args[len(args)-1]) {
		return errors.New("create: the last argument is not a container ID")
	}
	c.id = args[len(args)-1]
	for i, arg := range args {
		switch {
		case arg == "--bundle" || arg == "-b":
			c.bundle = args[i+1] // the last argument is an ID
		case strings.HasPrefix(arg, "--bundle="):
			c.bundle = strings.TrimPrefix(arg, "--bundle=")
		}
	}
	return nil
}
