package binaries

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// machines are the ELF machines of those GOARCH that are supported.
var machines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}

// checkELF says why a file cannot be run as a program on a machine of this
// architecture; empty where it can. It runs nothing, and trusts no byte.
func checkELF(r io.ReaderAt, size int64, arch string, exists func(path string) bool) (reason string) {
	head := make([]byte, min(size, 512))
	if _, err := r.ReadAt(head, 0); err != nil {
		return fmt.Sprintf("it cannot be read: %v", err)
	}
	if !bytes.HasPrefix(head, []byte(elf.ELFMAG)) {
		return "it is " + guess(head) + ", and no program"
	}
	f, err := elf.NewFile(r)
	if err != nil {
		return fmt.Sprintf("it is no whole program: %v", err)
	}
	want, known := machines[arch]
	switch {
	case !known:
		return "programs for " + arch + " are not known here"
	case f.Class != elf.ELFCLASS64 || f.Machine != want:
		return fmt.Sprintf("it is built for %s, and this machine is %s (%s)", strings.TrimPrefix(f.Machine.String(), "EM_"), arch, strings.TrimPrefix(want.String(), "EM_"))
	case f.Type != elf.ET_EXEC && f.Type != elf.ET_DYN:
		return "it is an ELF file, and no program"
	}
	loads := 0
	for _, p := range f.Progs {
		if p.Type == elf.PT_LOAD {
			loads++
		}
		if p.Off > uint64(size) || p.Filesz > uint64(size)-p.Off {
			return "it is no whole program: its end is missing"
		}
	}
	if loads == 0 {
		return "it is an ELF file, and no program"
	}
	for _, s := range f.Sections {
		if s.Type != elf.SHT_NOBITS && s.Type != elf.SHT_NULL && (s.Offset > uint64(size) || s.FileSize > uint64(size)-s.Offset) {
			return "it is no whole program: its end is missing"
		}
	}
	loader, err := interpreter(f)
	if err != nil {
		return fmt.Sprintf("it is no whole program: %v", err)
	}
	if loader != "" && !exists(loader) {
		return fmt.Sprintf("it is not static, and its interpreter %s is not on this machine", loader)
	}
	return ""
}

// interpreter is the loader of a program that is not static.
func interpreter(f *elf.File) (string, error) {
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		if p.Filesz < 2 || p.Filesz > 4096 {
			return "", errors.New("its interpreter has no sane name")
		}
		text, err := io.ReadAll(io.LimitReader(p.Open(), 4096))
		if err != nil {
			return "", err
		}
		name, _, _ := strings.Cut(string(text), "\x00")
		if !strings.HasPrefix(name, "/") {
			return "", errors.New("its interpreter has no sane name")
		}
		return name, nil
	}
	return "", nil
}

// guess says what a file may be that is no ELF file.
func guess(head []byte) string {
	start := bytes.ToLower(bytes.TrimSpace(head))
	switch {
	case bytes.HasPrefix(start, []byte("<!doctype")), bytes.HasPrefix(start, []byte("<html")):
		return "a web page (HTML)"
	case bytes.HasPrefix(head, []byte("#!")):
		return "a script"
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}), bytes.HasPrefix(head, []byte("PK\x03\x04")), bytes.HasPrefix(head, []byte("\xfd7zXZ")):
		return "an archive, which has to be unpacked"
	case bytes.HasPrefix(start, []byte("{")), bytes.HasPrefix(start, []byte("<?xml")):
		return "an answer of a server (JSON or XML)"
	}
	return "something else"
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// checkProgram looks at what was fetched without running it.
func (in *Installer) checkProgram(d *download) error {
	f, err := os.Open(d.tempFile.Name())
	if err != nil {
		return &PlaceError{Path: d.tempFile.Name(), Err: err}
	}
	defer f.Close() // read only
	if reason := checkELF(f, d.size, in.arch, exists); reason != "" {
		return &NotProgramError{Name: d.want.Name, URL: d.from.shown, Reason: reason}
	}
	return in.step("checked")
}
