package binaries

import (
	"fmt"
	"net/url"
	"path"
	"path/filepath"
	"strings"
)

// location is one place where a program may be.
type location struct {
	url   *url.URL
	shown string // without passwords and tokens, for people and files
}

// parseLocation reads an http, https or file URL.
func parseLocation(text string) (location, error) {
	u, err := url.Parse(text)
	if err != nil { // the text may hold a password: what is wrong is told without it
		return location{}, fmt.Errorf("%w: it cannot be read as one", ErrScheme)
	}
	switch u.Scheme {
	case "http", "https":
		if u.Host == "" {
			return location{}, fmt.Errorf("%w: %s names no host", ErrScheme, shown(u))
		}
	case "file":
		if (u.Host != "" && u.Host != "localhost") || !filepath.IsAbs(u.Path) {
			return location{}, fmt.Errorf("%w: %s: write file:///absolute/path", ErrScheme, shown(u))
		}
	default:
		return location{}, fmt.Errorf("%w: %q", ErrScheme, shown(u))
	}
	return location{url: u, shown: shown(u)}, nil
}

// shown gives a URL as it may be printed and kept: without password and query,
// which may hold a token.
func shown(u *url.URL) string {
	c := *u
	if c.User != nil {
		c.User = url.User(c.User.Username())
	}
	if c.RawQuery != "" {
		c.RawQuery = "..."
	}
	c.Fragment, c.RawFragment = "", ""
	return c.String()
}

// check says what is wrong with what the configuration gives.
func (s Source) check(name string) error {
	if find(name) == nil {
		return &SourceError{Name: name, Err: fmt.Errorf("there is no such program")}
	}
	if s.URL != "" {
		if _, err := parseLocation(s.URL); err != nil {
			return &SourceError{Name: name, Key: "url", Err: err}
		}
	}
	if s.SHA256 != "" && !hexSum.MatchString(normalSum(s.SHA256)) {
		return &SourceError{Name: name, Key: "sha256", Err: fmt.Errorf("%q is not 64 hex digits", s.SHA256)}
	}
	return nil
}

// SourceError says that the configuration gives a program that cannot be used.
type SourceError struct {
	Name, Key string
	Err       error
}

func (e *SourceError) Error() string {
	key := "binaries." + e.Name
	if e.Key != "" {
		key += "." + e.Key
	}
	return fmt.Sprintf("%s: %v", key, e.Err)
}
func (e *SourceError) Unwrap() error { return e.Err }

// Hint names the remedy.
func (e *SourceError) Hint() string {
	if e.Key == "sha256" {
		return "`sha256sum FILE` prints it"
	}
	return "write binaries: {zdb: {url: \"https://…\", sha256: \"…\"}}; the programs are zdb, zstor and zdbfs"
}

// ParseFrom checks what --from was given: a folder, or the URL of one.
func ParseFrom(from string) (string, error) {
	if strings.Contains(from, "://") {
		l, err := parseLocation(from)
		if err != nil {
			return "", err
		}
		return l.url.String(), nil
	}
	abs, err := filepath.Abs(from)
	if err != nil {
		return "", err
	}
	return (&url.URL{Scheme: "file", Path: abs}).String(), nil
}

// mirrored lists where a folder or mirror may have a program: as NAME-VERSION-ARCH,
// under the name of the release, or as NAME.
func mirrored(from string, w want, own, arch string) ([]location, error) {
	from, err := ParseFrom(from)
	if err != nil {
		return nil, fmt.Errorf("--from: %w", err)
	}
	var names []string
	if w.version != "" {
		names = append(names, w.Name+"-"+w.version+"-"+arch)
	}
	if u, err := url.Parse(own); err == nil && own != "" {
		if base := path.Base(u.Path); base != "." && base != "/" && base != w.Name {
			names = append(names, base)
		}
	}
	names = append(names, w.Name)
	var out []location
	for _, n := range names {
		l, err := below(from, n)
		if err != nil {
			return nil, err
		}
		out = append(out, l)
	}
	return out, nil
}

// below names a file of a mirror.
func below(mirror, name string) (location, error) {
	u, err := url.Parse(mirror)
	if err != nil {
		return location{}, err
	}
	u.Path = strings.TrimSuffix(u.Path, "/") + "/" + name
	u.RawPath = ""
	return location{url: u, shown: shown(u)}, nil
}
