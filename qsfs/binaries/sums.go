package binaries

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
)

// sumsFile is what a mirror may have beside its programs, as sha256sum writes
// it. It finds damage of a mirror, and is no reason to trust one.
const sumsFile = "SHA256SUMS"

// maxSums bounds what is read of it.
const maxSums = 1 << 20

// mirrorSums reads the SHA256SUMS of a mirror, if there is one.
func (in *Installer) mirrorSums(ctx context.Context) (map[string]string, error) {
	if in.o.From == "" {
		return nil, nil
	}
	from, err := ParseFrom(in.o.From)
	if err != nil {
		return nil, err
	}
	l, err := below(from, sumsFile)
	if err != nil {
		return nil, err
	}
	failed := func(err error) error { return &FetchError{Name: sumsFile, URL: l.shown, Err: err} }
	limit := min(in.o.Stall, in.o.Timeout)
	reading, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("%w within %v", ErrStalled, limit))
	defer cancel()
	body, _, err := in.open(reading, l)
	if errors.Is(err, ErrNotThere) {
		return nil, nil
	}
	if err != nil {
		return nil, failed(cause(ctx, reading, err))
	}
	defer body.Close() //nolint:errcheck // read only
	text, err := io.ReadAll(io.LimitReader(body, maxSums+1))
	if err == nil && len(text) > maxSums {
		err = ErrTooLarge
	}
	if err != nil {
		return nil, failed(cause(ctx, reading, err))
	}
	sums, err := parseSums(text)
	if err != nil {
		return nil, failed(err)
	}
	return sums, nil
}

// parseSums reads lines of sha256sum: hash, two blanks or a blank and a star,
// name.
func parseSums(text []byte) (map[string]string, error) {
	sums := map[string]string{}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		sum, name, ok := strings.Cut(line, " ")
		sum, name = normalSum(sum), strings.TrimPrefix(strings.TrimSpace(name), "*")
		if !ok || name == "" || !hexSum.MatchString(sum) {
			return nil, fmt.Errorf("line %d is none of sha256sum", n)
		}
		name = path.Base(name)
		if old := sums[name]; old != "" && old != sum {
			return nil, fmt.Errorf("line %d: %q is there twice, with another hash", n, name)
		}
		sums[name] = sum
	}
	return sums, lines.Err()
}
