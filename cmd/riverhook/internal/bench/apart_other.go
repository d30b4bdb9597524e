//go:build !linux

package bench

import "syscall"

// apart puts a child out of reach of the terminal's Ctrl-C, which is the bench's to handle.
func apart() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
