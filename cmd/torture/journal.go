package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
)

// journal is an append-only file with a JSON object per line. What was added is in the file, whatever happens next.
type journal struct {
	mu   sync.Mutex
	file *os.File
	err  error // the first one: what comes after it is lost, and so is the run
}

func openJournal(path string) (*journal, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("torture: %w", err)
	}
	return &journal{file: file}, nil
}

func (j *journal) add(entry any) {
	line, err := json.Marshal(entry)
	j.mu.Lock()
	defer j.mu.Unlock()
	if err == nil {
		_, err = j.file.Write(append(line, '\n'))
	}
	j.err = errors.Join(j.err, err)
}

// close says whether all that was added is there.
func (j *journal) close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return errors.Join(j.err, j.file.Close())
}

// readJournal reads what add has written.
func readJournal[T any](path string) ([]T, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("torture: %w", err)
	}
	defer file.Close()
	var entries []T
	decoder := json.NewDecoder(bufio.NewReaderSize(file, 1<<20))
	for {
		var entry T
		switch err := decoder.Decode(&entry); {
		case errors.Is(err, io.EOF):
			return entries, nil
		case err != nil:
			return nil, fmt.Errorf("torture: %s, entry %d: %w", path, len(entries)+1, err)
		}
		entries = append(entries, entry)
	}
}
