package bench

import "syscall"

// apart puts a child out of reach of the terminal's Ctrl-C, which is the bench's to handle, and has the kernel end it
// should the bench be killed.
func apart() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// inMemory says whether a directory is on a file system without a disk.
func inMemory(dir string) bool {
	const tmpfs = 0x01021994
	var fs syscall.Statfs_t
	return syscall.Statfs(dir, &fs) == nil && fs.Type == tmpfs
}
