//go:build unix && !linux

package pgtemp

// memoryDir returns "": only Linux has a directory in memory that one can count on.
func memoryDir() string { return "" }
