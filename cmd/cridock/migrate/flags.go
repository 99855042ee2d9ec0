package migrate

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/cridock/cridock/internal/nodeconf"
)

const (
	endpointFlag = "container-runtime-endpoint"
	runtimeFlag  = "container-runtime"
	remote       = "remote"
)

// dockershimFlags are those that a kubelet without dockershim does not know.
var dockershimFlags = []string{
	"cni-bin-dir", "cni-cache-dir", "cni-conf-dir", "docker-endpoint", "experimental-dockershim-root-directory",
	"image-pull-progress-deadline", "network-plugin", "network-plugin-mtu",
}

// change is what happens to the kubelet's flags.
type change struct {
	endpoint   string
	dockershim bool // from dockershim
}

// span is a part of a text that is replaced.
type span struct {
	start, end int
	text       string
}

// flagName returns the name of a flag, and its value if it is in the same word.
func flagName(word string) (name, value string, joined bool) {
	name, ok := strings.CutPrefix(word, "-")
	if !ok {
		return "", "", false
	}
	return cut(strings.TrimPrefix(name, "-"))
}

func cut(text string) (name, value string, joined bool) { return strings.Cut(text, "=") }

// rewrite changes the flags in a file, and nothing else of it.
func (c change) rewrite(text string, list []nodeconf.Assignment) string {
	var spans []span
	for _, a := range list {
		spans = append(spans, c.spans(a.Words)...)
	}
	return replace(text, spans)
}

func replace(text string, spans []span) string {
	var b strings.Builder
	at := 0
	for _, s := range spans {
		b.WriteString(text[at:s.start] + s.text)
		at = s.end
	}
	return b.String() + text[at:]
}

// spans returns what changes in one list of words, in its order.
func (c change) spans(words []nodeconf.Word) []span {
	var spans []span
	removed := make([]bool, len(words))
	for i := 0; i < len(words); i++ {
		name, _, joined := flagName(words[i].Text)
		apart := !joined && i+1 < len(words) && !strings.HasPrefix(words[i+1].Text, "-")
		value := ""
		switch {
		case name == endpointFlag:
			value = c.endpoint
		case c.dockershim && name == runtimeFlag:
			value = remote
		case c.dockershim && slices.Contains(dockershimFlags, name):
			removed[i] = true
			if apart {
				i++
				removed[i] = true
			}
			continue
		default:
			continue
		}
		switch {
		case apart:
			i++
			spans = append(spans, span{words[i].Start, words[i].End, value})
		default:
			spans = append(spans, span{words[i].Start, words[i].End, "--" + name + "=" + value})
		}
	}
	spans = append(spans, removals(words, removed)...)
	slices.SortFunc(spans, func(a, b span) int { return a.start - b.start })
	return spans
}

// removals returns the spans of words that go, with the space between them and the
// words that stay.
func removals(words []nodeconf.Word, removed []bool) []span {
	var spans []span
	for i := 0; i < len(words); i++ {
		if !removed[i] {
			continue
		}
		first := i
		for i+1 < len(words) && removed[i+1] {
			i++
		}
		s := span{start: words[first].Start, end: words[i].End}
		switch {
		case i+1 < len(words):
			s.end = words[i+1].Start
		case first > 0:
			s.start = words[first-1].End
		}
		spans = append(spans, s)
	}
	return spans
}

// kubelet is how the node's kubelet is started.
type kubelet struct {
	unit     nodeconf.Unit
	line     string   // its command line
	units    []string // the unit's files
	envs     []string // environment files
	configs  []string // configuration files, later ones override earlier ones
	endpoint string   // as a flag or in a configuration
}

const (
	kubeletDir  = "/var/lib/kubelet"
	endpointKey = "containerRuntimeEndpoint"
)

func (m *migration) kubelet() (*kubelet, error) {
	k := &kubelet{}
	var err error
	if k.unit, err = m.Root.ReadUnit(kubeletService); err != nil {
		return nil, err
	}
	if k.unit == nil {
		return nil, fmt.Errorf("there is no %s: migrate cannot stop the kubelet, nor find its flags", kubeletService)
	}
	words, err := m.Root.ServiceCommand(k.unit)
	if err != nil {
		return nil, err
	}
	k.line = strings.Join(words, " ")
	k.units, k.envs = m.Root.UnitFiles(kubeletService), m.Root.EnvironmentFiles(k.unit)
	main := nodeconf.FlagValue(k.line, "config")
	if main == "" {
		main = kubeletDir + "/config.yaml"
	}
	paths := []string{main}
	if dir := nodeconf.FlagValue(k.line, "config-dir"); dir != "" {
		found, _ := filepath.Glob(m.Root.Path(dir, "*.conf")) // an invalid pattern matches nothing
		for _, path := range found {
			paths = append(paths, m.Root.Shown(path))
		}
	}
	for _, path := range paths {
		if !m.Root.Exists(path) {
			continue
		}
		text, err := m.Root.ReadFile(path)
		if err != nil {
			return nil, err
		}
		values, err := parseConfig(path, text)
		if err != nil {
			return nil, err
		}
		if e, _ := values[endpointKey].(string); e != "" {
			k.endpoint = e
		}
		k.configs = append(k.configs, path)
	}
	if e := nodeconf.FlagValue(k.line, endpointFlag); e != "" {
		k.endpoint = e
	}
	return k, nil
}

func parseConfig(path, text string) (map[string]any, error) {
	var values map[string]any
	if err := yaml.Unmarshal([]byte(text), &values); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return values, nil
}

var configLine = regexp.MustCompile(`(?m)^(\s*"?` + endpointKey + `"?[ \t]*:[ \t]*)("[^"\n]*"|'[^'\n]*'|[^\s#,"']+)`)

// rewriteConfig changes the endpoint in a configuration file, if it has one, and nothing
// else of it.
func rewriteConfig(path, text, endpoint string) (string, error) {
	before, err := parseConfig(path, text)
	if err != nil {
		return "", err
	}
	if e, _ := before[endpointKey].(string); e == "" {
		return text, nil
	}
	next := configLine.ReplaceAllString(text, `${1}"`+endpoint+`"`)
	after, err := parseConfig(path, next)
	if err != nil {
		return "", err
	}
	before[endpointKey] = endpoint
	if fmt.Sprint(before) != fmt.Sprint(after) {
		return "", fmt.Errorf("%s: migrate does not know how to change %s in it; set it to %s by hand", path, endpointKey, endpoint)
	}
	return next, nil
}

// vendor reports whether a file is a package's, which an upgrade replaces.
func vendor(path string) bool {
	return strings.HasPrefix(path, "/lib/") || strings.HasPrefix(path, "/usr/")
}

// source is a file with settings of the kubelet.
type source struct {
	path    string
	rewrite func(text string) (string, error)
}

// sources returns all of them, and how they change.
func (m *migration) sources(k *kubelet, c change) []source {
	var all []source
	add := func(paths []string, rewrite func(path, text string) (string, error)) {
		for _, path := range paths {
			all = append(all, source{path, func(text string) (string, error) { return rewrite(path, text) }})
		}
	}
	add(k.units, func(_, text string) (string, error) { return c.rewrite(text, nodeconf.UnitSettings(text)), nil })
	add(k.envs, func(_, text string) (string, error) { return c.rewrite(text, nodeconf.EnvFile(text)), nil })
	configs := k.configs
	if instance := kubeletDir + "/instance-config.yaml"; m.Root.Exists(instance) {
		configs = append(configs, instance) // kubeadm's, for this node
	}
	add(configs, func(path, text string) (string, error) { return rewriteConfig(path, text, c.endpoint) })
	return all
}

// kubeletEdits returns the changes of all files with the kubelet's settings.
func (m *migration) kubeletEdits(k *kubelet, c change) ([]*edit, error) {
	texts, were := map[string]string{}, map[string]string{}
	var order []string
	changed := false
	for _, s := range m.sources(k, c) {
		text, err := m.Root.ReadFile(s.path)
		if err != nil {
			return nil, err
		}
		next, err := s.rewrite(text)
		if err != nil {
			return nil, err
		}
		if next != text && vendor(s.path) {
			return nil, fmt.Errorf("%s has flags that must change, and belongs to a package: copy it below /etc/systemd/system first", s.path)
		}
		texts[s.path], were[s.path], order = next, text, append(order, s.path)
		changed = changed || next != text
	}
	if k.endpoint != "" && !sameSocket(k.endpoint, c.endpoint) && !changed {
		return nil, fmt.Errorf("the kubelet uses %s, but migrate does not find that in its unit, environment files or configuration; change it by hand, as docs/migrating.md describes", k.endpoint)
	}
	dropIn, err := c.add(k, texts)
	if err != nil {
		return nil, err
	}
	texts[dropInPath] = dropIn
	if !slices.Contains(order, dropInPath) { // else it was left by hand
		order = append(order, dropInPath)
	}
	var edits []*edit
	for _, path := range order {
		e, err := m.newEdit(path, were[path], texts[path])
		if err != nil {
			return nil, err
		}
		if e != nil && !slices.ContainsFunc(edits, func(other *edit) bool { return other.Path == e.Path }) {
			edits = append(edits, e)
		}
	}
	return edits, nil
}

// dropInPath is read after other drop-ins.
const dropInPath = "/etc/systemd/system/kubelet.service.d/zz-cridock.conf"

// missing returns the flags that the kubelet needs and that no file has.
func (c change) missing(k *kubelet) string {
	var flags []string
	if c.dockershim && nodeconf.FlagValue(k.line, runtimeFlag) == "" {
		flags = append(flags, "--"+runtimeFlag+"="+remote)
	}
	if k.endpoint == "" {
		flags = append(flags, "--"+endpointFlag+"="+c.endpoint)
	}
	return strings.Join(flags, " ")
}

// add adds the missing flags to one of the texts, and returns the content of the
// drop-in: the kubelet starts after cridock.
func (c change) add(k *kubelet, texts map[string]string) (string, error) {
	text := "# From \"cridock migrate\"; \"cridock migrate --back\" removes it.\n[Unit]\nWants=cridock.service\nAfter=cridock.service\n"
	flags := c.missing(k)
	if flags == "" || c.addToFile(k, texts, flags) {
		return text, nil
	}
	const variable = "KUBELET_EXTRA_ARGS"
	if !slices.Contains(strings.Fields(lastCommand(k)), "$"+variable) {
		return "", fmt.Errorf("%s takes flags from no variable that migrate knows: add %s to them by hand, and run migrate again", kubeletService, flags)
	}
	value := ""
	for _, path := range k.units {
		for _, a := range nodeconf.UnitSettings(texts[path]) {
			if a.Name == variable {
				value = a.Value
			}
		}
	}
	value = strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(strings.TrimSpace(value + " " + flags))
	return text + "\n[Service]\nEnvironment=\"" + variable + "=" + value + "\"\n", nil
}

func lastCommand(k *kubelet) string { return k.unit.Last("Service.ExecStart") }

// addToFile adds flags to a variable in an environment file that the kubelet's command
// line uses; kubeadm's variable is the first choice. The last file that sets it counts.
func (c change) addToFile(k *kubelet, texts map[string]string, flags string) bool {
	used := strings.Fields(lastCommand(k))
	best, at, end, empty := 0, "", 0, false
	for _, path := range k.envs {
		for _, a := range nodeconf.EnvFile(texts[path]) {
			rank := slices.Index([]string{"KUBELET_ARGS", "KUBELET_EXTRA_ARGS", "KUBELET_KUBEADM_ARGS"}, a.Name) + 1
			if rank > 0 && rank >= best && slices.Contains(used, "$"+a.Name) {
				best, at, end, empty = rank, path, a.End, len(a.Words) == 0
			}
		}
	}
	if best == 0 {
		return false
	}
	if !empty {
		flags = " " + flags
	}
	texts[at] = texts[at][:end] + flags + texts[at][end:]
	return true
}

// checkFlags reads the kubelet's settings as systemd does.
func (m *migration) checkFlags(s step) error {
	k, err := m.kubelet()
	if err != nil {
		return err
	}
	if !sameSocket(k.endpoint, s.Endpoint) {
		return fmt.Errorf("the kubelet's settings name the endpoint %q after their change, not %s", k.endpoint, s.Endpoint)
	}
	if !s.Dockershim {
		return nil
	}
	if r := nodeconf.FlagValue(k.line, runtimeFlag); r != remote {
		return fmt.Errorf("the kubelet's flags have --%s=%s after their change, not %s", runtimeFlag, r, remote)
	}
	for _, name := range dockershimFlags {
		if strings.Contains(" "+k.line, " --"+name) && nodeconf.FlagValue(k.line, name) != "" {
			return fmt.Errorf("the kubelet's flags still have --%s after their change", name)
		}
	}
	return nil
}
