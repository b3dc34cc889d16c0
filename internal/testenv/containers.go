package testenv

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ory/dockertest/v3"
	"github.com/ory/dockertest/v3/docker"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/backend"
)

// Nothing is pulled: the image holds the project's own static program and
// nothing else.
const dockerfile = `FROM scratch
COPY quantumd /quantumd
ENTRYPOINT ["/quantumd", "zdb"]
`

// containerLife is how long a container lives at most, in seconds, when its
// test ended without a chance to remove it.
const containerLife = 300

const containerPort docker.Port = "9900/tcp"

// Containers runs each backend in a Docker container, from an image that is
// made of the project's own program and removed with the test. A test is
// skipped where no engine answers.
func Containers(t testing.TB) Wiring {
	t.Helper()
	pool, err := dockertest.NewPool("")
	if err == nil {
		pool.Client.SetTimeout(time.Minute)
		err = pool.Client.Ping()
	}
	if err != nil {
		t.Skipf("no Docker engine answers: %v", err)
	}
	// Not t.TempDir: that is below folders of 0700, and its names can be too long.
	dir, err := os.MkdirTemp("", "quantumd-containers-")
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, os.RemoveAll(dir)) })
	image := buildImage(t, pool, filepath.Join(dir, "image"))
	return newOutside(t, func(id string, admin backend.Secret) (runner, error) {
		own, err := os.MkdirTemp(dir, id+"-")
		if err != nil {
			return nil, err
		}
		c := &container{pool: pool, image: image, dir: own, name: image + "-" + filepath.Base(own)}
		return c, os.WriteFile(filepath.Join(own, "admin"), []byte(admin.Reveal()+"\n"), 0o600)
	})
}

func buildImage(t testing.TB, pool *dockertest.Pool, dir string) string {
	t.Helper()
	program, err := os.ReadFile(Program(t))
	require.NoError(t, err)
	require.NoError(t, os.Mkdir(dir, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "quantumd"), program, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(dockerfile), 0o600))
	name := "quantumd-test-" + strings.ToLower(rand.Text()[:12])
	var said strings.Builder
	err = pool.Client.BuildImage(docker.BuildImageOptions{Name: name, ContextDir: dir, OutputStream: &said, NetworkMode: "none", Version: "1"})
	require.NoError(t, err, said.String())
	t.Cleanup(func() {
		assert.NoError(t, pool.Client.RemoveImageExtended(name, docker.RemoveImageOptions{Force: true}))
	})
	return name
}

// container is a zdb whose files lie outside the container, so that they
// outlive it.
type container struct {
	pool             *dockertest.Pool
	image, dir, name string
	port             string // on the host; empty: the engine chooses
	resource         *dockertest.Resource
}

func (c *container) start(context.Context) (netip.AddrPort, error) {
	r, err := c.pool.RunWithOptions(&dockertest.RunOptions{
		Name: c.name, Repository: c.image,
		Cmd:          []string{"--listen", "0.0.0.0", "--port", "9900", "--data", "/zdb/data", "--index", "/zdb/index", "--admin-file", "/zdb/admin"},
		Mounts:       []string{c.dir + ":/zdb"},
		User:         fmt.Sprintf("%d:%d", os.Getuid(), os.Getgid()),
		ExposedPorts: []string{string(containerPort)},
		PortBindings: map[docker.Port][]docker.PortBinding{containerPort: {{HostIP: "127.0.0.1", HostPort: c.port}}},
	}, func(h *docker.HostConfig) {
		h.AutoRemove, h.PublishAllPorts = true, false
		h.RestartPolicy = docker.RestartPolicy{Name: "no"}
	})
	if err != nil {
		return netip.AddrPort{}, err
	}
	c.resource, c.port = r, r.GetPort(string(containerPort))
	if err := r.Expire(containerLife); err != nil {
		return netip.AddrPort{}, errors.Join(err, c.kill())
	}
	return netip.ParseAddrPort("127.0.0.1:" + c.port)
}

// kill ends the container with SIGKILL and removes it.
func (c *container) kill() error {
	return c.pool.Purge(c.resource)
}
