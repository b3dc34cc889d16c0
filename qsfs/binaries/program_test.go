package binaries

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"runtime"
)

// elfProgram makes a static program that prints a text and ends with a code, or
// never; padded, so that it comes in parts.
func elfProgram(arch, text string, code byte, forever bool, pad int) []byte {
	const at, header = 0x400000, 64 + 56
	var b bytes.Buffer
	body := code64[arch](text, code, forever)
	machine := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[arch]
	put := func(v any) {
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			panic(err)
		}
	}
	h := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(machine), Version: 1, Entry: at + header, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1}
	copy(h.Ident[:], elf.ELFMAG+string([]byte{byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1}))
	put(h)
	size := uint64(header + len(body) + pad)
	put(elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: 5, Vaddr: at, Paddr: at, Filesz: size, Memsz: size, Align: 4096})
	b.Write(body)
	b.Write(bytes.Repeat([]byte("pad "), pad/4+1)[:pad])
	return b.Bytes()
}

// code64 gives machine code: write(1, text), then exit(code), or pause for ever.
var code64 = map[string]func(text string, code byte, forever bool) []byte{
	"amd64": func(text string, code byte, forever bool) []byte {
		n := byte(len(text))
		b := []byte{
			0xb8, 1, 0, 0, 0, 0xbf, 1, 0, 0, 0, // eax = write, edi = 1
			0x48, 0x8d, 0x35, 19, 0, 0, 0, // rsi = text
			0xba, n, 0, 0, 0, 0x0f, 0x05, // edx = n; syscall
			0xb8, 60, 0, 0, 0, 0xbf, code, 0, 0, 0, 0x0f, 0x05, // exit(code)
		}
		if forever {
			copy(b[24:], []byte{0xb8, 34, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7, 0x90, 0x90, 0x90}) // pause, again
		}
		return append(b, text...)
	},
	"arm64": func(text string, code byte, forever bool) []byte {
		words := []uint32{
			movz(8, 64), movz(0, 1), 0x10000000 | 6<<5 | 1, movz(2, uint32(len(text))), 0xd4000001, // x1 = text, six words ahead
			movz(8, 93), movz(0, uint32(code)), 0xd4000001,
		}
		if forever {
			words[5], words[6], words[7] = 0xd503205f, 0x17ffffff, 0xd503201f // wfe; b to it
		}
		var b []byte
		for _, w := range words {
			b = binary.LittleEndian.AppendUint32(b, w)
		}
		return append(b, text...)
	},
}

func movz(register, value uint32) uint32 { return 0xd2800000 | value<<5 | register }

// said is a program of this machine that says of itself what the real ones do.
func said(text string) []byte { return elfProgram(runtime.GOARCH, text+"\n", 0, false, 200<<10) }

var (
	newZdb   = said("\x1b[36;1m[*] 0-db server, v2.0.7 (commit v2.0.7)\x1b[0m")
	newZstor = said("zstor_v2 0.4.0")
	newZdbfs = elfProgram(runtime.GOARCH, "fusermount3 version: 3.14.0\n\x1b[36;1m[+] initializing zdbfs v0.1.11\x1b[0m\n", 1, false, 100<<10)
	oldZdb   = said("0-db server, v2.0.4")
)
