package qsfs

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"os"
	"slices"
	"sync"
)

// rankedLists are lists of objects on disk, by how much each has lost.
type rankedLists struct {
	dir string
	mu  sync.Mutex
	out map[int]*os.File
	buf map[int]*bufio.Writer
}

// maxRank is the rank of what is looked at first.
const maxRank = 255

func (l *rankedLists) add(rank int, o objectRef) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.out == nil {
		l.out, l.buf = map[int]*os.File{}, map[int]*bufio.Writer{}
	}
	if l.out[rank] == nil {
		f, err := os.CreateTemp(l.dir, ".rebuild-*")
		if err == nil {
			err = os.Remove(f.Name()) // it ends with us, also by a crash
		}
		if err != nil {
			return &PathError{Path: l.dir, Err: err}
		}
		l.out[rank], l.buf[rank] = f, bufio.NewWriter(f)
	}
	return json.NewEncoder(l.buf[rank]).Encode(o)
}

// read gives all, those of the highest rank first.
func (l *rankedLists) read(each func(objectRef) error) error {
	ranks := []int{}
	for rank := range l.out {
		ranks = append(ranks, rank)
	}
	slices.SortFunc(ranks, func(a, b int) int { return b - a })
	for _, rank := range ranks {
		if err := l.buf[rank].Flush(); err != nil {
			return err
		}
		if _, err := l.out[rank].Seek(0, io.SeekStart); err != nil {
			return err
		}
		for d := json.NewDecoder(bufio.NewReader(l.out[rank])); ; {
			var o objectRef
			if err := d.Decode(&o); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				return err
			}
			if err := each(o); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *rankedLists) close() {
	for _, f := range l.out {
		_ = f.Close() // it has no name any more
	}
}
