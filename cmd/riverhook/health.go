package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"
)

// healthCmd asks a running service. It is for images that have no other program to ask with.
type healthCmd struct {
	Listen string `env:"RIVERHOOK_LISTEN" default:"127.0.0.1:8090" help:"Where serve listens (default ${default})."`
	Ready  bool   `help:"Ask whether it delivers, as /readyz does: not while it waits for Postgres, nor while it stops."`
}

// healthTimeout bounds the answer.
const healthTimeout = 5 * time.Second

// Run asks, and fails unless all is well.
func (cmd *healthCmd) Run(ctx context.Context, c console) error {
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	address, err := reachable(cmd.Listen)
	if err != nil {
		return usageError{fmt.Errorf("--listen (RIVERHOOK_LISTEN): %w", err)}
	}
	path := "/healthz"
	if cmd.Ready {
		path = "/readyz"
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, http.NoBody)
	if err != nil {
		return usageError{errors.New("--listen (RIVERHOOK_LISTEN): an address such as 127.0.0.1:8090")}
	}
	client := http.Client{Transport: new(http.Transport)} // no proxy
	response, err := client.Do(request)
	if err != nil {
		return hintError{fmt.Errorf("no answer from %s: %w", address, errors.Unwrap(err)), "does riverhook serve run, and on this address?"}
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 4096))
	if err != nil {
		return fmt.Errorf("no whole answer from %s: %w", address, err)
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s", oneLine(string(body)))
	}
	_, err = fmt.Fprintln(c.out, strings.TrimSpace(string(body)))
	return err
}

// reachable is how one reaches an address to listen on from this machine: any address of it is loopback, too.
func reachable(listen string) (string, error) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return "", errors.New("an address such as 127.0.0.1:8090")
	}
	if address, err := netip.ParseAddr(host); host == "" || err == nil && address.IsUnspecified() {
		host = "127.0.0.1"
		if err == nil && address.Is6() {
			host = "::1"
		}
	}
	return net.JoinHostPort(host, port), nil
}
