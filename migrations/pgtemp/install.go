//go:build unix

package pgtemp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"regexp"
	"syscall"
)

const (
	clusterConf = "/etc/postgresql-common/createcluster.conf"
	// installLock is in a directory only root may write, as only root installs.
	installLock = "/run/riverhook-pgtemp.lock"
)

// Install makes sure that [Find] succeeds. Where it already does, Install does
// nothing. Where it does not, and this process is root on a machine with
// apt-get, Install installs Debian's postgresql package, without the cluster
// that the package would otherwise create and start; apt-get's output goes to
// log (nil: nowhere). Anywhere else it returns Find's error, [ErrNotFound].
//
// Processes that call Install at the same time wait for one another.
func Install(ctx context.Context, log io.Writer) error {
	if _, err := Find(); err == nil {
		return nil
	}
	apt, err := exec.LookPath("apt-get")
	if err != nil || os.Geteuid() != 0 {
		return ErrNotFound
	}
	if log == nil {
		log = io.Discard
	}

	lock, err := os.OpenFile(installLock, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("pgtemp: install: open the lock: %w", err)
	}
	defer lock.Close() // releases the lock
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("pgtemp: install: lock %s: %w", installLock, err)
	}
	if _, err := Find(); err == nil {
		return nil // another process installed it while this one waited
	}

	_, _ = fmt.Fprintln(log, "pgtemp: no PostgreSQL server binaries found, installing Debian's package postgresql")
	aptGet := func(args ...string) error {
		cmd := exec.CommandContext(ctx, apt, append([]string{"-q", "-y", "-o", "DPkg::Lock::Timeout=300"}, args...)...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		cmd.Stdout, cmd.Stderr = log, log
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("pgtemp: install: apt-get %s (install the package postgresql by hand): %w", args[0], err)
		}
		return nil
	}
	if err := aptGet("update"); err != nil {
		return err
	}
	// postgresql-common goes first: it brings the file that says whether the
	// server package creates a cluster of its own, and the answer must be no.
	if err := aptGet("install", "--no-install-recommends", "postgresql-common"); err != nil {
		return err
	}
	if err := forbidMainCluster(clusterConf); err != nil {
		return err
	}
	if err := aptGet("install", "--no-install-recommends", "postgresql"); err != nil {
		return err
	}
	if _, err := Find(); err != nil {
		return fmt.Errorf("pgtemp: install: apt-get succeeded, and still: %w", err)
	}
	return nil
}

var mainClusterLine = regexp.MustCompile(`(?m)^[ \t]*#?[ \t]*create_main_cluster[ \t]*=.*$`)

// forbidMainCluster sets create_main_cluster = false in a createcluster.conf.
func forbidMainCluster(path string) error {
	const line = "create_main_cluster = false"
	conf, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("pgtemp: install: read createcluster.conf: %w", err)
	}
	if mainClusterLine.Match(conf) {
		conf = mainClusterLine.ReplaceAllLiteral(conf, []byte(line))
	} else {
		conf = fmt.Appendf(conf, "\n%s\n", line)
	}
	if err := os.WriteFile(path, conf, 0o644); err != nil {
		return fmt.Errorf("pgtemp: install: write createcluster.conf: %w", err)
	}
	return nil
}
