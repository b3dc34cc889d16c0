package zstor

import (
	"encoding/hex"
	"fmt"
	"path"
	"strings"
	"unicode/utf8"

	"github.com/threefoldtech/quantumd/engine/zstor/record"
)

// HashedPath is the text whose hash names the object of p: p cleaned lexically,
// without Root. With a Root a path outside it is an error.
func (c *Config) HashedPath(p string) (string, error) {
	if p == "" || !utf8.ValidString(p) || strings.Contains(p, "\x00") {
		return "", fmt.Errorf("zstor: %q is no path: want UTF-8 text without zero bytes", p)
	}
	p = path.Clean(p)
	root := c.cleanRoot()
	switch {
	case root == "":
		return p, nil
	case root == "/" && strings.HasPrefix(p, "/"):
		return p[1:], nil
	case strings.HasPrefix(p, root+"/"):
		return p[len(root)+1:], nil
	}
	return "", fmt.Errorf("zstor: %s is not in the file tree rooted at %s", p, c.Root)
}

// ObjectKey is the key of p's record on the metadata backends.
func (c *Config) ObjectKey(p string) (string, error) {
	hashed, err := c.HashedPath(p)
	if err != nil {
		return "", err
	}
	sum := record.Sum([]byte(hashed))
	return c.keyPrefix() + hex.EncodeToString(sum[:]), nil
}

func (c *Config) keyPrefix() string { return "/" + c.Prefix + metaInfix }

// isObjectKey says whether key is one that ObjectKey could give.
func (c *Config) isObjectKey(key string) bool {
	h, ok := strings.CutPrefix(key, c.keyPrefix())
	if !ok || len(h) != 2*len(record.Checksum{}) {
		return false
	}
	_, err := hex.DecodeString(h)
	return err == nil && strings.ToLower(h) == h
}
