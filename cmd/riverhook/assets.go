package main

import (
	_ "embed"
	"fmt"
)

// assetsCmd prints files that belong to the program and are used by others.
type assetsCmd struct {
	Grafana    assetGrafanaCmd    `cmd:"" help:"A dashboard for Grafana, as JSON: Dashboards, New, Import."`
	Alerts     assetAlertsCmd     `cmd:"" help:"Alert rules for Prometheus, as YAML: name the file in rule_files."`
	Systemd    assetSystemdCmd    `cmd:"" help:"A unit for systemd: it says at its top how to install it."`
	Dockerfile assetDockerfileCmd `cmd:"" help:"A Dockerfile for the binary: it says at its top how to build and run it."`
}

//go:embed assets/grafana.json
var assetGrafana string

//go:embed assets/alerts.yml
var assetAlerts string

type assetGrafanaCmd struct{}

func (assetGrafanaCmd) Run(c console) error {
	_, err := fmt.Fprint(c.out, assetGrafana)
	return err
}

type assetAlertsCmd struct{}

func (assetAlertsCmd) Run(c console) error {
	_, err := fmt.Fprint(c.out, assetAlerts)
	return err
}

//go:embed assets/riverhook.service
var assetSystemd string

//go:embed assets/Dockerfile
var assetDockerfile string

type assetSystemdCmd struct{}

func (assetSystemdCmd) Run(c console) error {
	_, err := fmt.Fprint(c.out, assetSystemd)
	return err
}

type assetDockerfileCmd struct{}

func (assetDockerfileCmd) Run(c console) error {
	_, err := fmt.Fprint(c.out, assetDockerfile)
	return err
}
