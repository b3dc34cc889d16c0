package child

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"time"

	"github.com/threefoldtech/quantumd/services"
)

const (
	maxLog    = 10 << 20 // bytes of log before it becomes log.1
	logPoll   = 200 * time.Millisecond
	tailBytes = 4 << 20 // of a log that are looked through for its last lines
)

// openLog opens the log for a process to append to.
func (h home) openLog() (*os.File, error) {
	if err := h.trimLog(); err != nil {
		return nil, err
	}
	return os.OpenFile(h.file("log"), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
}

// trimLog copies a long log to log.1 and empties it. The process keeps
// appending to the same file, so renaming it would not help; lines of the
// moment in between are lost.
func (h home) trimLog() error {
	st, err := os.Stat(h.file("log"))
	if errors.Is(err, os.ErrNotExist) || err == nil && st.Size() < maxLog {
		return nil
	}
	if err != nil {
		return err
	}
	from, err := os.Open(h.file("log"))
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.OpenFile(h.file("log.1"), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if _, err := io.Copy(to, from); err != nil {
		_ = to.Close()
		return err
	}
	return errors.Join(to.Close(), os.Truncate(h.file("log"), 0))
}

// copyLog writes the last lines, and with Follow those that come.
func (h home) copyLog(ctx context.Context, o services.LogOptions, to io.Writer) error {
	f, err := os.Open(h.file("log"))
	if errors.Is(err, os.ErrNotExist) && !o.Follow {
		return nil
	}
	for errors.Is(err, os.ErrNotExist) {
		if !pause(ctx) {
			return nil
		}
		f, err = os.Open(h.file("log"))
	}
	if err != nil {
		return err
	}
	defer f.Close()
	at, err := h.lastLines(f, o.Lines, to)
	if err != nil || !o.Follow {
		return err
	}
	for pause(ctx) {
		st, err := f.Stat()
		if err != nil {
			return err
		}
		if st.Size() < at { // it became log.1
			at = 0
		}
		n, err := io.Copy(to, io.NewSectionReader(f, at, st.Size()-at))
		if at += n; err != nil {
			return err
		}
	}
	return nil
}

func pause(ctx context.Context) bool {
	select {
	case <-time.After(logPoll):
		return true
	case <-ctx.Done():
		return false
	}
}

// lastLines writes the last lines of log.1 and the log, and gives the offset
// behind them.
func (h home) lastLines(f *os.File, lines int, to io.Writer) (int64, error) {
	text, size, err := ending(f)
	if err != nil {
		return 0, err
	}
	if bytes.Count(text, []byte("\n")) < lines {
		if old, err := os.Open(h.file("log.1")); err == nil {
			before, _, err := ending(old)
			_ = old.Close() // read only
			if err != nil {
				return 0, err
			}
			text = append(before, text...)
		}
	}
	from := len(text)
	for n := 0; from > 0; from-- {
		if text[from-1] == '\n' && from < len(text) {
			if n++; n == lines {
				break
			}
		}
	}
	_, err = to.Write(text[from:])
	return size, err
}

// ending reads the end of a file.
func ending(f *os.File) ([]byte, int64, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	n := min(st.Size(), tailBytes)
	b := make([]byte, n)
	k, err := f.ReadAt(b, st.Size()-n)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return b[:k], st.Size(), err
}
