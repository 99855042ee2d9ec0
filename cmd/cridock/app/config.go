package app

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
	"k8s.io/klog/v2"
	"sigs.k8s.io/yaml"
)

// fileSetting is the value of a setting in a configuration file, as a flag takes it.
type fileSetting struct{ value, file string }

// configuration is what Complete found on the command line and in the files.
type configuration struct {
	flags *pflag.FlagSet
	// given are the settings on the command line, with the flag that was used.
	given map[string]string
	// files are the settings in files; the last file that has one wins.
	files map[string]fileSetting
	// read are the files, in the order of reading.
	read []string
}

// source returns where a setting's value comes from.
func (c *configuration) source(name string) string {
	if flag, ok := c.given[name]; ok {
		return "flag --" + flag
	}
	if s, ok := c.files[name]; ok {
		return s.file
	}
	return "default"
}

// Complete applies the configuration files that the parsed flags name, and the
// verbosity. Flags on the command line override the files. It does not validate. Call
// it once, after AddFlags.
func (o *Options) Complete(f *pflag.FlagSet) error {
	c := &configuration{flags: f, given: map[string]string{}}
	var level string
	var err error
	f.Visit(func(flag *pflag.Flag) {
		if o.settings.Lookup(flag.Name) == nil {
			return // a subcommand's own
		}
		name, value, wrong := canonical(flag.Name, flag.Value.String())
		err = errors.Join(err, wrong)
		c.given[name] = flag.Name
		if flag.Name == aliasLogLevel && !f.Changed(name) {
			level = value
		}
	})
	if err != nil {
		return err
	}
	if level != "" {
		if err := f.Set("v", level); err != nil {
			return err
		}
	}
	if c.files, c.read, err = o.readFiles(); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(c.files)) {
		if _, ok := c.given[name]; ok {
			continue
		}
		if err := f.Set(name, c.files[name].value); err != nil {
			return fmt.Errorf("config %s: %s: %w", c.files[name].file, name, err)
		}
	}
	for _, flag := range obsoleteFlags() {
		if source := c.source(flag.name); source != "default" {
			klog.InfoS("Setting has no effect", "setting", flag.name, "reason", flag.reason, "source", source)
		}
	}
	o.loaded = c
	return nil
}

// readFiles returns the settings of all configuration files, and the files' paths. As
// whoever can write to one is as good as root, others may not.
func (o *Options) readFiles() (map[string]fileSetting, []string, error) {
	var paths []string
	if o.configFile != "" {
		if err := checkConfig(o.configFile); err != nil {
			return nil, nil, fmt.Errorf("config: %w", err)
		}
		paths = append(paths, o.configFile)
	}
	dropIns, err := o.dropIns(o.settings.Changed("config-dir"))
	if err != nil {
		return nil, nil, err
	}
	paths = append(paths, dropIns...)
	settings := map[string]fileSetting{}
	for _, path := range paths {
		if err := readFile(o.settings, path, settings); err != nil {
			return nil, nil, err
		}
	}
	return settings, paths, nil
}

// dropIns returns the paths of the files in the configuration directory, sorted. The
// directory need not exist unless it is required.
func (o *Options) dropIns(required bool) ([]string, error) {
	if o.configDir == "" {
		return nil, nil
	}
	entries, err := os.ReadDir(o.configDir) // sorted
	if errors.Is(err, fs.ErrNotExist) && !required {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("config-dir: %w", err)
	}
	dir, err := filepath.Abs(o.configDir)
	if err != nil {
		return nil, fmt.Errorf("config-dir: %w", err)
	}
	paths := []string{}
	for _, entry := range entries {
		if isDropIn(entry.Name()) {
			paths = append(paths, filepath.Join(dir, entry.Name()))
		}
	}
	for _, path := range append([]string{dir}, paths...) {
		if err := checkTrusted(path); err != nil {
			return nil, fmt.Errorf("config-dir: %w", err)
		}
	}
	return paths, nil
}

// checkConfig makes sure that others cannot change the file of --config.
func checkConfig(path string) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	return checkTrusted(path)
}

// isDropIn reports whether a file of the configuration directory is read. Editors'
// temporary files begin with a dot.
func isDropIn(name string) bool {
	return strings.HasSuffix(name, ".yaml") && !strings.HasPrefix(name, ".")
}

// readFile adds the settings of a YAML file, whose keys are flag names, to settings.
// An unknown key is an error.
func readFile(known *pflag.FlagSet, path string, settings map[string]fileSetting) error {
	b, err := os.ReadFile(path) //nolint:gosec // a flag names the file
	if err != nil {
		return fmt.Errorf("config: %w", err)
	}
	var values map[string]any
	if err := yaml.UnmarshalStrict(b, &values); err != nil {
		return fmt.Errorf("config %s: %w", path, err)
	}
	seen := map[string]string{}
	for _, key := range slices.Sorted(maps.Keys(values)) {
		if known.Lookup(key) == nil || onlyOnCommandLine(key) {
			return fmt.Errorf("config %s: unknown key %q", path, key)
		}
		value, err := settingText(key, values[key])
		name := key
		if err == nil {
			name, value, err = canonical(key, value)
		}
		if err != nil {
			return fmt.Errorf("config %s: %s: %w", path, key, err)
		}
		if other, ok := seen[name]; ok {
			return fmt.Errorf("config %s: %s and %s are the same setting", path, other, key)
		}
		seen[name] = key
		settings[name] = fileSetting{value: value, file: path}
	}
	return nil
}

// onlyOnCommandLine reports whether a flag says where the settings are.
func onlyOnCommandLine(name string) bool { return name == "config" || name == "config-dir" }

// settingText converts a YAML value to text for its flag.
func settingText(key string, v any) (string, error) {
	switch v := v.(type) {
	case string:
		return v, nil
	case bool:
		return strconv.FormatBool(v), nil
	case float64:
		if key == "socket-mode" { // YAML reads 0660 as an octal number
			return strconv.FormatInt(int64(v), 8), nil
		}
		return strconv.FormatFloat(v, 'f', -1, 64), nil
	case []any:
		parts := make([]string, len(v))
		for i, p := range v {
			text, ok := p.(string)
			if !ok {
				return "", fmt.Errorf("want a list of strings")
			}
			parts[i] = text
		}
		return strings.Join(parts, ","), nil
	default:
		return "", fmt.Errorf("want a string, number, boolean or list")
	}
}
