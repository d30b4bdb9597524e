package pgtemp

import "syscall"

// memoryDir returns a directory in memory with room for a test server, or "".
// There, creating a database takes a tenth of the time that a disk needs for
// the few hundred files of one.
func memoryDir() string {
	const (
		dir       = "/dev/shm"
		tmpfs     = 0x01021994
		room      = 4 << 30 // bytes; a container often has 64 MiB
		writeExec = 2 | 1
	)
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil || fs.Type != tmpfs ||
		fs.Bavail < room/uint64(fs.Bsize) || syscall.Access(dir, writeExec) != nil {
		return ""
	}
	return dir
}
