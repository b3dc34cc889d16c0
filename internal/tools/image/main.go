// Command image writes a container image of one static program, on nothing
// (FROM scratch): a tar that `docker load` and OCI tools take. The same input
// gives the same bytes; no engine and no network is needed.
//
//	image -program bin/quantumd -arch amd64 -version 1.2.3 -epoch 1700000000 -o image.tar
package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"time"
)

func main() {
	o := options{}
	flag.StringVar(&o.program, "program", "bin/quantumd", "static program")
	flag.StringVar(&o.arch, "arch", "amd64", "its architecture, as Go names it")
	flag.StringVar(&o.version, "version", "dev", "version, the image's tag")
	flag.Int64Var(&o.epoch, "epoch", 0, "time of everything in it, in seconds since 1970")
	flag.StringVar(&o.out, "o", "image.tar", "file to write")
	flag.Parse()
	if err := write(o); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

type options struct {
	program, arch, version, out string
	epoch                       int64
}

const layerType = "application/vnd.oci.image.layer.v1.tar+gzip"

func write(o options) error {
	program, err := os.ReadFile(o.program)
	if err != nil {
		return err
	}
	at := time.Unix(o.epoch, 0).UTC()
	plain, err := archive(at, []entry{
		{name: "etc/", mode: 0o755}, {name: "tmp/", mode: 0o1777}, {name: "data/", mode: 0o700}, {name: "mnt/", mode: 0o755},
		{name: "usr/", mode: 0o755}, {name: "usr/local/", mode: 0o755}, {name: "usr/local/bin/", mode: 0o755},
		{name: "usr/local/bin/quantumd", mode: 0o755, body: program},
		{name: "usr/local/bin/quantumd-hook", link: "quantumd"},
	})
	if err != nil {
		return err
	}
	var layer bytes.Buffer
	z, err := gzip.NewWriterLevel(&layer, gzip.BestCompression)
	if err != nil {
		return err
	}
	if _, err := z.Write(plain); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	config, err := json.Marshal(o.config(at, digest(plain)))
	if err != nil {
		return err
	}
	manifest, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
		"config": descriptor("application/vnd.oci.image.config.v1+json", config),
		"layers": []any{descriptor(layerType, layer.Bytes())},
	})
	if err != nil {
		return err
	}
	tag := "quantumd:" + o.version
	top := descriptor("application/vnd.oci.image.manifest.v1+json", manifest)
	top["annotations"] = map[string]string{"io.containerd.image.name": "docker.io/library/" + tag, "org.opencontainers.image.ref.name": o.version}
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []any{top}})
	if err != nil {
		return err
	}
	docker, err := json.Marshal([]any{map[string]any{ // what older engines read
		"Config": blob(config), "RepoTags": []string{tag}, "Layers": []string{blob(layer.Bytes())},
	}})
	if err != nil {
		return err
	}
	image, err := archive(at, []entry{
		{name: "oci-layout", mode: 0o644, body: []byte(`{"imageLayoutVersion":"1.0.0"}`)},
		{name: "index.json", mode: 0o644, body: index}, {name: "manifest.json", mode: 0o644, body: docker},
		{name: "blobs/", mode: 0o755}, {name: "blobs/sha256/", mode: 0o755},
		{name: blob(manifest), mode: 0o644, body: manifest}, {name: blob(config), mode: 0o644, body: config},
		{name: blob(layer.Bytes()), mode: 0o644, body: layer.Bytes()},
	})
	if err != nil {
		return err
	}
	return os.WriteFile(o.out, image, 0o644)
}

// config is what the image runs. The default is a whole system below the
// volume /data without a mount, which needs no privileges.
func (o options) config(at time.Time, layer string) map[string]any {
	return map[string]any{
		"architecture": o.arch, "os": "linux", "created": at.Format(time.RFC3339),
		"rootfs":  map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + layer}},
		"history": []any{map[string]any{"created": at.Format(time.RFC3339), "created_by": "make image"}},
		"config": map[string]any{
			"Env":        []string{"PATH=/usr/local/bin"},
			"Entrypoint": []string{"/usr/local/bin/quantumd"},
			"Cmd":        []string{"up", "--local", "--dir", "/data", "--no-mount"},
			"Volumes":    map[string]any{"/data": struct{}{}},
			"WorkingDir": "/", "StopSignal": "SIGTERM",
			"Healthcheck": map[string]any{
				"Test":     []string{"CMD", "/usr/local/bin/quantumd", "wait", "--dir", "/data", "--timeout", "5s"},
				"Interval": 30 * time.Second, "Timeout": 10 * time.Second, "StartPeriod": 5 * time.Minute, "Retries": 3,
			},
			"Labels": map[string]string{
				"org.opencontainers.image.title": "quantumd", "org.opencontainers.image.version": o.version,
				"org.opencontainers.image.licenses": "Apache-2.0", "org.opencontainers.image.source": "https://github.com/threefoldtech/quantumd",
			},
		},
	}
}

type entry struct {
	name, link string
	mode       int64
	body       []byte
}

func archive(at time.Time, entries []entry) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Mode: e.mode, Size: int64(len(e.body)), ModTime: at, Format: tar.FormatUSTAR, Typeflag: tar.TypeReg}
		switch {
		case e.link != "":
			h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, e.link, 0o777
		case e.name[len(e.name)-1] == '/':
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(e.body); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return out.Bytes(), err
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func blob(b []byte) string { return "blobs/sha256/" + digest(b) }

func descriptor(kind string, b []byte) map[string]any {
	return map[string]any{"mediaType": kind, "digest": "sha256:" + digest(b), "size": len(b)}
}
