//go:build !linux

package main

import "syscall"

// apart puts a child out of reach of the terminal's Ctrl-C, which is the harness's to handle.
func apart() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
