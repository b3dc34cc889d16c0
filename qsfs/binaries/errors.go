package binaries

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strings"
	"syscall"
)

// HashError says that a program has another hash than the trusted one. Nothing
// was changed.
type HashError struct {
	Name, URL string
	Want, Got string // SHA-256, hex
	By        string // who gave Want: config, lock, or the SHA256SUMS of a mirror
	Lock      string // path of the lock file
}

func (e *HashError) Error() string {
	return fmt.Sprintf("%s from %s has the SHA-256 %s, but %s gives %s: it is not used, and nothing was changed", e.Name, e.URL, e.Got, e.giver(), e.Want)
}

func (e *HashError) giver() string {
	switch e.By {
	case "config":
		return "the configuration"
	case "lock":
		return "the lock file " + e.Lock
	}
	return e.By
}

// Hint names the remedy.
func (e *HashError) Hint() string {
	switch e.By {
	case "config":
		return fmt.Sprintf("find out why the program changed; if the new one is right, correct binaries.%s.sha256 in the configuration", e.Name)
	case "lock":
		return fmt.Sprintf("find out why the program changed since it was trusted; if the new one is right, write its hash as binaries.%s.sha256 into the configuration, or take the entry %s out of %s", e.Name, e.Name, e.Lock)
	}
	return "the download or the mirror is damaged: fetch its file anew, or make its SHA256SUMS anew with `sha256sum`"
}

// NoReleaseError says that a release has no program for this machine.
type NoReleaseError struct{ Name, Version, Arch string }

func (e *NoReleaseError) Error() string {
	return fmt.Sprintf("%s %s has no release for %s", e.Name, e.Version, e.Arch)
}

// Hint names the remedy.
func (e *NoReleaseError) Hint() string {
	return fmt.Sprintf("build it for %s, put it as %s into a folder and give that with --from, name its URL as binaries.%s.url, or write `engine: embedded`", e.Arch, e.Name, e.Name)
}

// FetchError says that a program could not be fetched. Nothing was changed.
type FetchError struct {
	Name, URL string
	Err       error
}

func (e *FetchError) Error() string {
	return fmt.Sprintf("fetch %s from %s: %v", e.Name, e.URL, e.Err)
}
func (e *FetchError) Unwrap() error { return e.Err }

// Hint names the remedy.
func (e *FetchError) Hint() string {
	var status *StatusError
	switch {
	case errors.As(e.Err, &status) && (status.Code == http.StatusUnauthorized || status.Code == http.StatusForbidden || status.Code == http.StatusProxyAuthRequired):
		return "the server, or a proxy before it, does not let this machine have the file; another source is given with --from"
	case errors.As(e.Err, &status) && status.Code >= 500:
		return "the server has a problem: run the same command again later, or name another source with --from"
	case errors.Is(e.Err, ErrNotThere):
		return fmt.Sprintf("correct binaries.%s.url in the configuration, or name a folder or mirror that has the file with --from", e.Name)
	case errors.Is(e.Err, ErrTooLarge):
		return "no program is so large: correct the URL"
	case errors.Is(e.Err, ErrRedirect):
		return "name the final https URL in the configuration, or a folder or mirror with --from"
	case errors.Is(e.Err, ErrScheme):
		return "write an https, http or file URL"
	case errors.Is(e.Err, fs.ErrPermission):
		return "run as root, or make the file readable"
	}
	return "run the same command again; without a connection to there, take the programs from a folder or mirror with --from"
}

// Causes of a [FetchError].
var (
	ErrNotThere  = errors.New("there is no such file")
	ErrTruncated = errors.New("the file ends too early")
	ErrTooLarge  = errors.New("the file is too large")
	ErrStalled   = errors.New("nothing more came")
	ErrRedirect  = errors.New("it is sent on to where it must not go")
	ErrScheme    = errors.New("it is no URL that programs are fetched from")
)

// StatusError is an answer of a server that is no success. Those that say that
// there is no such file are [ErrNotThere].
type StatusError struct{ Code int }

func (e *StatusError) Error() string {
	return fmt.Sprintf("the server answers %d %s", e.Code, http.StatusText(e.Code))
}

// Is makes a missing file [ErrNotThere].
func (e *StatusError) Is(err error) bool {
	return err == ErrNotThere && (e.Code == http.StatusNotFound || e.Code == http.StatusGone)
}

// NotProgramError says that a file cannot be this program on this machine.
// Nothing was changed.
type NotProgramError struct{ Name, URL, Reason string }

func (e *NotProgramError) Error() string {
	return fmt.Sprintf("what came as %s from %s is not used: %s", e.Name, e.URL, e.Reason)
}

// Hint names the remedy.
func (e *NotProgramError) Hint() string {
	return fmt.Sprintf("look at the URL with a browser: it must give the program itself, built for this machine, static if possible; correct binaries.%s.url, or use --from", e.Name)
}

// ProbeError says that a program could not be asked for its version.
type ProbeError struct {
	Name, Path string
	Output     string // the end of what it printed
	Err        error
}

func (e *ProbeError) Error() string {
	s := fmt.Sprintf("%s does not run here: %v", e.Name, e.Err)
	if e.Output != "" {
		s += ": " + e.Output
	}
	return s
}
func (e *ProbeError) Unwrap() error { return e.Err }

// Hint names the remedy.
func (e *ProbeError) Hint() string {
	switch {
	case strings.Contains(e.Output, "shared librar"):
		return "install the libraries that it asks for, or take a static build"
	case errors.Is(e.Err, fs.ErrPermission):
		return "the folder may be mounted with noexec: allow programs to be run from it"
	}
	return fmt.Sprintf("take another build of %s: with --from, or by binaries.%s.url in the configuration", e.Name, e.Name)
}

// VersionError says that a program is of another version than the table wants.
// Nothing was changed.
type VersionError struct{ Name, URL, Want, Got string }

func (e *VersionError) Error() string {
	return fmt.Sprintf("%s from %s says that it is version %q; wanted is %s", e.Name, e.URL, e.Got, e.Want)
}

// Hint names the remedy.
func (e *VersionError) Hint() string {
	return fmt.Sprintf("take version %s; or, where another one is meant, name it as binaries.%s.url (and sha256) in the configuration", e.Want, e.Name)
}

// UntrustedError says that nobody vouched for programs and nobody could be
// asked. Nothing was changed.
type UntrustedError struct{ List []Trust }

func (e *UntrustedError) Error() string {
	var names []string
	for _, t := range e.List {
		names = append(names, fmt.Sprintf("%s (SHA-256 %s)", t.Name, t.SHA256))
	}
	return "nobody vouched for these programs yet: " + strings.Join(names, ", ")
}

// Hint names the remedy.
func (e *UntrustedError) Hint() string {
	return "compare the hashes with what the makers publish, then give --yes, or write them as binaries.NAME.sha256 into the configuration"
}

// PlaceError says that a file of this machine could not be written. The old
// program is there as it was.
type PlaceError struct {
	Path string
	Err  error
}

func (e *PlaceError) Error() string { return fmt.Sprintf("%s: %v", e.Path, e.Err) }
func (e *PlaceError) Unwrap() error { return e.Err }

// Hint names the remedy.
func (e *PlaceError) Hint() string {
	switch {
	case errors.Is(e.Err, syscall.ENOSPC), errors.Is(e.Err, syscall.EDQUOT):
		return "free some space on that disk; what was there before is unharmed"
	case errors.Is(e.Err, syscall.EROFS):
		return "make that file system writable"
	case errors.Is(e.Err, fs.ErrPermission):
		return "run as root"
	}
	return "see what is at that path, and run the same command again"
}

// LockError says that the lock file cannot be used.
type LockError struct {
	Path string
	Err  error
}

func (e *LockError) Error() string { return fmt.Sprintf("lock file %s: %v", e.Path, e.Err) }
func (e *LockError) Unwrap() error { return e.Err }

// Hint names the remedy.
func (e *LockError) Hint() string {
	return "bring it back from a copy; or move it away, and the programs are asked for anew at the next setup"
}
