package main

import (
	_ "embed"
	"fmt"
)

// assetsCmd prints files that belong to the program and are used by others.
type assetsCmd struct {
	Grafana assetGrafanaCmd `cmd:"" help:"A dashboard for Grafana, as JSON: Dashboards, New, Import."`
	Alerts  assetAlertsCmd  `cmd:"" help:"Alert rules for Prometheus, as YAML: name the file in rule_files."`
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
