//go:build !linux

package bench

import "syscall"

// apart puts a child out of reach of the terminal's Ctrl-C, which is the bench's to handle.
func apart() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}

// inMemory says whether a directory is on a file system without a disk, as far as it is known.
func inMemory(string) bool { return false }
