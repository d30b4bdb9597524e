//go:build failpoints

package main

import (
	"fmt"
	"os"

	"github.com/riverhook/riverhook/delivery/failpoint"
)

// A binary of the tag dies where RIVERHOOK_FAILPOINT says: see failpoint.Arm.
func init() {
	if err := failpoint.Arm(os.Getenv("RIVERHOOK_FAILPOINT")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(exitUsage)
	}
}
