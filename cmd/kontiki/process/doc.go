// Package process has what a master and a worker do alike as processes of a host: their flags from a configuration file (config.go), the
// host's name and address (host.go), the logger (logger.go), traces (tracing.go), the version (version.go, buildinfo.go) and what
// systemd is told (systemd.go).
package process
