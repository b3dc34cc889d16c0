package binaries

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"
)

// maxRedirects is more than any host of releases needs.
const maxRedirects = 10

// newClient gives the client of all downloads. What it is sent on to stays http
// or https, and never leaves https again.
func newClient(o Options) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: o.Stall}).DialContext,
			TLSHandshakeTimeout:   o.Stall,
			ResponseHeaderTimeout: o.Stall,
			ForceAttemptHTTP2:     true,
			DisableCompression:    true, // the length that is announced is that of the file
			DisableKeepAlives:     true, // nothing goes on behind a call
		},
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if len(via) > maxRedirects {
				return fmt.Errorf("%w: more than %d times", ErrRedirect, maxRedirects)
			}
			to := req.URL.Scheme
			if to != "http" && to != "https" {
				return fmt.Errorf("%w: to %s", ErrRedirect, shown(req.URL))
			}
			if to == "http" && via[len(via)-1].URL.Scheme == "https" {
				return fmt.Errorf("%w: from https to %s", ErrRedirect, shown(req.URL))
			}
			return nil
		},
	}
}

// open begins to read a location; size is -1 where it is not announced.
func (in *Installer) open(ctx context.Context, l location) (io.ReadCloser, int64, error) {
	if l.url.Scheme == "file" {
		return openFile(l.url.Path)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, l.url.String(), nil)
	if err != nil {
		return nil, 0, err
	}
	req.Header.Set("User-Agent", "quantumd")
	resp, err := in.client.Do(req)
	if err != nil {
		return nil, 0, withoutURL(err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, 0, errors.Join(&StatusError{resp.StatusCode}, resp.Body.Close())
	}
	return resp.Body, resp.ContentLength, nil
}

// withoutURL takes the URL, which may hold a password, out of an error of the
// http client.
func withoutURL(err error) error {
	var with interface {
		error
		Unwrap() error
		Timeout() bool
	}
	if errors.As(err, &with) && with.Unwrap() != nil {
		return with.Unwrap()
	}
	return err
}

// openFile opens a regular file; a pipe or a device would never end.
func openFile(path string) (io.ReadCloser, int64, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, ErrNotThere
	}
	if err != nil {
		return nil, 0, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%w: it is no regular file", ErrNotThere)
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, st.Size(), nil
}

// download is a program in a file of another name.
type download struct {
	want
	from location
	tempFile
	sum  string
	size int64
	told string // the version that it says of itself
}

// fetch brings a program to a temporary file beside its target, synced, with
// its hash. It is compared with the trusted one, if there is one.
func (in *Installer) fetch(ctx context.Context, w want, sums map[string]string) (*download, error) {
	if w.problem != nil {
		return nil, w.problem
	}
	var missing error
	for _, l := range w.urls {
		d, err := in.fetchFrom(ctx, w, l)
		if errors.Is(err, ErrNotThere) {
			missing = err // the next name; the last one's error is told
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := in.verify(d, sums); err != nil {
			return nil, errors.Join(err, d.discard())
		}
		return d, nil
	}
	if len(w.urls) > 1 {
		return nil, &FetchError{Name: w.Name, URL: shownFrom(in.o.From), Err: fmt.Errorf("%w: looked for %s", ErrNotThere, bases(w.urls))}
	}
	return nil, missing
}

func (in *Installer) fetchFrom(ctx context.Context, w want, l location) (*download, error) {
	failed := func(err error) error { return &FetchError{Name: w.Name, URL: l.shown, Err: err} }
	limited, cancel := context.WithTimeoutCause(ctx, in.o.Timeout, fmt.Errorf("%w within %v", ErrStalled, in.o.Timeout))
	defer cancel()
	reading, give := context.WithCancelCause(limited)
	defer give(nil)
	body, size, err := in.open(reading, l)
	if err != nil {
		return nil, failed(cause(ctx, reading, err))
	}
	defer body.Close() //nolint:errcheck // read only
	if size > in.o.MaxSize {
		return nil, failed(fmt.Errorf("%w: %d bytes, of at most %d", ErrTooLarge, size, in.o.MaxSize))
	}
	f, err := in.create(in.o.Dir, tempPrefix(w.Name))
	if err != nil {
		return nil, &PlaceError{Path: in.o.Dir, Err: err}
	}
	d := &download{want: w, from: l, tempFile: f}
	if err := in.step("created"); err != nil {
		return nil, errors.Join(err, d.discard())
	}
	alarm := time.AfterFunc(in.o.Stall, func() { give(fmt.Errorf("%w for %v", ErrStalled, in.o.Stall)) })
	defer alarm.Stop()
	h := sha256.New()
	r := &meter{in: in, name: w.Name, total: max(size, 0), from: body, hash: h, alarm: alarm}
	_, err = io.Copy(toFile{f}, io.LimitReader(r, in.o.MaxSize+1))
	d.size, d.sum = r.done, hex.EncodeToString(h.Sum(nil))
	var full *fileError
	switch {
	case errors.As(err, &full):
		err = &PlaceError{Path: f.Name(), Err: full.err}
	case errors.Is(err, io.ErrUnexpectedEOF), err == nil && size >= 0 && d.size < size:
		err = failed(fmt.Errorf("%w: after %d bytes, of %d", ErrTruncated, d.size, max(size, 0)))
	case err != nil:
		err = failed(cause(ctx, reading, err))
	case d.size > in.o.MaxSize:
		err = failed(fmt.Errorf("%w: more than %d bytes", ErrTooLarge, in.o.MaxSize))
	case d.size == 0:
		err = failed(fmt.Errorf("%w: it is empty", ErrTruncated))
	default:
		err = in.finish(d)
	}
	if err != nil {
		return nil, errors.Join(err, d.discard())
	}
	return d, nil
}

// finish makes what was fetched durable, and a program.
func (in *Installer) finish(d *download) error {
	if err := in.step("fetched"); err != nil {
		return err
	}
	err := d.Chmod(0o755)
	if err == nil {
		err = d.Sync()
	}
	if err == nil {
		err = d.Close()
	}
	if err != nil {
		return &PlaceError{Path: d.Name(), Err: err}
	}
	return in.step("synced")
}

// verify compares hashes: with that of the mirror, and with the trusted one.
func (in *Installer) verify(d *download, sums map[string]string) error {
	in.o.Progress(Progress{Name: d.want.Name, Step: "check", Done: d.size, Total: d.size})
	if want := sums[base(d.from)]; want != "" && want != d.sum {
		return &HashError{Name: d.want.Name, URL: d.from.shown, Want: want, Got: d.sum, By: "SHA256SUMS of the mirror"}
	}
	if d.want.sum != "" && d.want.sum != d.sum {
		return &HashError{Name: d.want.Name, URL: d.from.shown, Want: d.want.sum, Got: d.sum, By: d.by, Lock: in.o.Lock}
	}
	return nil
}

// cause gives the reason why reading ended, where it was ours.
func cause(outer, reading context.Context, err error) error {
	if outer.Err() != nil {
		return context.Cause(outer)
	}
	if c := context.Cause(reading); c != nil {
		return c
	}
	return err
}

// meter counts, hashes and tells what passes.
type meter struct {
	in          *Installer
	name        string
	done, total int64
	from        io.Reader
	hash        hash.Hash
	alarm       *time.Timer
	half        bool
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.from.Read(p)
	if n > 0 {
		m.alarm.Reset(m.in.o.Stall)
		m.hash.Write(p[:n])
		m.done += int64(n)
		m.in.o.Progress(Progress{Name: m.name, Step: "fetch", Done: m.done, Total: m.total})
		if !m.half {
			m.half = true
			if err := m.in.step("half"); err != nil {
				return n, err
			}
		}
	}
	return n, err
}

// fileError tells an error of the file that is written from one of the source.
type fileError struct{ err error }

func (e *fileError) Error() string { return e.err.Error() }

type toFile struct{ f io.Writer }

func (t toFile) Write(p []byte) (int, error) {
	n, err := t.f.Write(p)
	if err != nil {
		err = &fileError{err}
	}
	return n, err
}
