package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"time"
)

var loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// PortError says that a backend's port is taken by something else.
type PortError struct {
	Address netip.AddrPort
	Err     error
}

func (e *PortError) Error() string {
	return fmt.Sprintf("port in use: a local backend needs %s, and something else has it: %v", e.Address, e.Err)
}

func (e *PortError) Unwrap() error { return e.Err }

// Hint names the remedy.
func (e *PortError) Hint() string {
	return fmt.Sprintf("find it with `ss -ltnp 'sport = :%d'` and end it: the port is part of each object's address and cannot change", e.Address.Port())
}

func portFree(addr netip.AddrPort) error {
	l, err := net.Listen("tcp", addr.String())
	if err != nil {
		return &PortError{Address: addr, Err: err}
	}
	return l.Close()
}

// firstPort is where ports of backends begin; those below have known uses.
const firstPort = 10000

// choosePort finds a free port that no other backend below the folder has,
// running or not. It comes from below the range from which the kernel gives
// ports to outgoing connections, where after a restart any of them could sit on
// a port that has to be this backend's for life.
func (p *Provisioner) choosePort() (uint16, error) {
	instances, err := loadAll(p.dir)
	if err != nil {
		return 0, fmt.Errorf("choose a port: that of another backend is not known: %w", err)
	}
	taken := map[uint16]bool{}
	for _, i := range instances {
		taken[i.Address.Port()] = true
	}
	retired, err := p.Retired()
	if err != nil {
		return 0, fmt.Errorf("choose a port: those of retired backends are not known: %w", err)
	}
	for _, b := range retired {
		taken[b.Address.Port()] = true
	}
	end := ephemeralPorts()
	return freePort(taken, func() uint16 {
		if end <= firstPort+1000 {
			return 0 // the kernel chooses
		}
		return uint16(firstPort + rand.IntN(end-firstPort))
	})
}

// freePort tries candidates until one can be listened at and is not taken.
func freePort(taken map[uint16]bool, candidate func() uint16) (uint16, error) {
	for range 1000 {
		l, err := net.Listen("tcp", netip.AddrPortFrom(loopback, candidate()).String())
		if err != nil {
			continue
		}
		port := l.Addr().(*net.TCPAddr).AddrPort().Port()
		if err := l.Close(); err != nil {
			return 0, err
		}
		if !taken[port] {
			return port, nil
		}
	}
	return 0, errNoPort
}

var errNoPort = errors.New("no free port was found for a local backend")

// ephemeralPorts is where the kernel's range for outgoing connections begins;
// zero where that is not known.
func ephemeralPorts() int {
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	var from, to int
	if err != nil {
		return 0
	}
	if _, err := fmt.Sscan(string(text), &from, &to); err != nil || from > 1<<16 {
		return 0
	}
	return from
}

// givesChallenge says whether what listens at addr answers as a zdb that is
// asked for a challenge: 16 hexadecimal digits.
func givesChallenge(ctx context.Context, addr netip.AddrPort) bool {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr.String())
	if err != nil {
		return false
	}
	defer conn.Close() //nolint:errcheck // only asked
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(time.Second)
	}
	if conn.SetDeadline(deadline) != nil {
		return false
	}
	if _, err := conn.Write([]byte("*3\r\n$4\r\nAUTH\r\n$6\r\nSECURE\r\n$9\r\nCHALLENGE\r\n")); err != nil {
		return false
	}
	var answer [19]byte
	if _, err := io.ReadFull(conn, answer[:]); err != nil {
		return false
	}
	return answer[0] == '+' && bytes.HasSuffix(answer[:], []byte("\r\n"))
}
