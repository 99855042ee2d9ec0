package app

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	validator "github.com/containerd/nri/plugins/default-validator/builtin"
	"github.com/spf13/pflag"

	"github.com/cridock/cridock/shim/nri"
)

func (o *Options) addNRIFlags(f *pflag.FlagSet) {
	f.BoolVar(&o.NRI, "nri", o.NRI, "serve NRI plugins, which see and change all pods and are as good as root")
	f.StringVar(&o.NRISocketPath, "nri-socket-path", o.NRISocketPath, "socket that NRI plugins connect to, for root only; empty for no connections")
	f.StringVar(&o.NRIPluginPath, "nri-plugin-path", o.NRIPluginPath, "directory of NRI plugins to start")
	f.StringVar(&o.NRIPluginConfigPath, "nri-plugin-config-path", o.NRIPluginConfigPath, "directory of their configurations")
	f.DurationVar(&o.NRIRegistrationTimeout, "nri-plugin-registration-timeout", o.NRIRegistrationTimeout, "time in which an NRI plugin has to register")
	f.DurationVar(&o.NRIRequestTimeout, "nri-plugin-request-timeout", o.NRIRequestTimeout, "time in which an NRI plugin has to answer each request; one that does not is cut off")
	f.StringSliceVar(&o.NRIReject, "nri-reject", o.NRIReject, "kinds of adjustments by NRI plugins that fail a container: oci-hooks, runtime-default-seccomp, unconfined-seccomp, custom-seccomp, namespaces, sysctls")
	f.StringSliceVar(&o.NRIRequiredPlugins, "nri-required-plugins", o.NRIRequiredPlugins, "NRI plugins without which no container is created")
	f.StringVar(&o.NRITolerateAnnotation, "nri-tolerate-missing-plugins-annotation", o.NRITolerateAnnotation, "annotation of pods that need none of these (default: none)")
}

// validateNRI checks the settings of NRI, even if it is off.
func (o *Options) validateNRI() error {
	var err error
	for name, path := range map[string]string{"nri-plugin-path": o.NRIPluginPath, "nri-plugin-config-path": o.NRIPluginConfigPath, "nri-socket-path": o.NRISocketPath} {
		if !filepath.IsAbs(path) && (path != "" || name != "nri-socket-path") {
			err = errors.Join(err, fmt.Errorf("%s %q: want an absolute path", name, path))
		}
	}
	for name, d := range map[string]time.Duration{"nri-plugin-registration-timeout": o.NRIRegistrationTimeout, "nri-plugin-request-timeout": o.NRIRequestTimeout} {
		if d <= 0 {
			err = errors.Join(err, fmt.Errorf("%s %v: want a positive time", name, d))
		}
	}
	_, verr := o.nriValidator()
	return errors.Join(err, verr)
}

// nriConfig returns the settings of NRI; nil if it is off.
func (o *Options) nriConfig() *nri.Config {
	if !o.NRI {
		return nil
	}
	v, _ := o.nriValidator() // Validate has checked it
	return &nri.Config{
		SocketPath: o.NRISocketPath, PluginPath: o.NRIPluginPath, PluginConfigPath: o.NRIPluginConfigPath,
		RegistrationTimeout: o.NRIRegistrationTimeout, RequestTimeout: o.NRIRequestTimeout, Validator: v,
	}
}

func (o *Options) nriValidator() (validator.DefaultValidatorConfig, error) {
	v := validator.DefaultValidatorConfig{
		Enable:          len(o.NRIReject)+len(o.NRIRequiredPlugins) > 0,
		RequiredPlugins: o.NRIRequiredPlugins, TolerateMissingAnnotation: o.NRITolerateAnnotation,
	}
	switches := map[string]*bool{
		"oci-hooks": &v.RejectOCIHookAdjustment, "runtime-default-seccomp": &v.RejectRuntimeDefaultSeccompAdjustment,
		"unconfined-seccomp": &v.RejectUnconfinedSeccompAdjustment, "custom-seccomp": &v.RejectCustomSeccompAdjustment,
		"namespaces": &v.RejectNamespaceAdjustment, "sysctls": &v.RejectSysctlAdjustment,
	}
	var err error
	for _, kind := range o.NRIReject {
		if on := switches[kind]; on != nil {
			*on = true
			continue
		}
		err = errors.Join(err, fmt.Errorf("nri-reject %q: want oci-hooks, runtime-default-seccomp, unconfined-seccomp, custom-seccomp, namespaces or sysctls", kind))
	}
	return v, err
}
