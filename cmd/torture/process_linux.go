package main

import "syscall"

// apart puts a child out of reach of the terminal's Ctrl-C, which is the harness's to handle, and has the kernel end it
// should the harness be killed.
func apart() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
