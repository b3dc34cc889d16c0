package server

import (
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zdb/segment"
	"github.com/threefoldtech/quantumd/internal/resp"
)

type cmd struct {
	run   func(c *conn, args [][]byte)
	admin bool
}

// commands has every name that zdb knows. Unlike zdb, a name must be complete.
var commands map[string]*cmd

func init() { // WAIT looks names up, so this cannot be an initializer
	commands = map[string]*cmd{
		"*":      {run: func(c *conn, _ [][]byte) { c.fail("This is not a valid command") }},
		"WAIT":   {run: cmdWait},
		"MIRROR": {run: func(c *conn, _ [][]byte) { c.out = resp.AppendSimple(c.out, "Starting mirroring") }, admin: true},
		"MASTER": {run: cmdMaster, admin: true},
		"PING":   {run: func(c *conn, _ [][]byte) { c.out = append(c.out, "+PONG\r\n"...) }},
		"TIME":   {run: cmdTime},
		"AUTH":   {run: cmdAuth},
		"HOOKS":  {run: cmdHooks, admin: true},
		"INDEX":  {run: cmdIndex, admin: true},
		"DATA":   {run: cmdData, admin: true},
		"SET":    {run: cmdSet}, "SETX": {run: cmdSet},
		"GET": {run: cmdGet}, "MGET": {run: cmdMGet},
		"DEL":    {run: cmdDel},
		"EXISTS": {run: cmdExists}, "CHECK": {run: cmdCheck},
		"SCAN": {run: cmdScan}, "SCANX": {run: cmdScan}, "RSCAN": {run: cmdRScan},
		"KSCAN": {run: func(c *conn, _ [][]byte) {
			c.fail("Command disabled in release code, not yet available")
		}},
		"HISTORY": {run: cmdHistory}, "KEYCUR": {run: cmdKeyCur},
		"LENGTH": {run: cmdLength}, "KEYTIME": {run: cmdKeyTime},
		"INFO":   {run: cmdInfo},
		"STOP":   {run: func(c *conn, _ [][]byte) { c.fail("Unauthorized") }},
		"DBSIZE": {run: cmdDBSize},
		"NSNEW":  {run: cmdNSNew, admin: true}, "NSDEL": {run: cmdNSDel, admin: true},
		"NSLIST": {run: cmdNSList}, "NSSET": {run: cmdNSSet, admin: true}, "NSINFO": {run: cmdNSInfo},
		"NSJUMP": {run: cmdNSJump, admin: true},
		"SELECT": {run: cmdSelect}, "RELOAD": {run: cmdReload, admin: true}, "FLUSH": {run: cmdFlush},
	}
}

// command finds what a request names, in any case.
func command(name []byte) (string, *cmd) {
	var upper [16]byte
	if len(name) > len(upper) {
		return "", nil
	}
	for i, b := range name {
		if 'a' <= b && b <= 'z' {
			b -= 'a' - 'A'
		}
		upper[i] = b
	}
	x := commands[string(upper[:len(name)])]
	if x == nil {
		return "", nil
	}
	return string(upper[:len(name)]), x
}

// leadingNumber reads the decimal digits, and a sign, that b begins with.
func leadingNumber(b []byte) int64 {
	end := 0
	if end < len(b) && (b[0] == '-' || b[0] == '+') {
		end++
	}
	for end < len(b) && '0' <= b[end] && b[end] <= '9' {
		end++
	}
	n, err := strconv.ParseInt(string(b[:end]), 10, 64)
	if errors.Is(err, strconv.ErrRange) {
		return n // the nearest there is
	}
	return n // 0 where there are no digits
}

// stamp is the timestamp argument of SET and DEL, modulo 2^32.
func stamp(args [][]byte, at int) uint32 {
	if len(args) > at {
		return uint32(leadingNumber(args[at]))
	}
	return uint32(time.Now().Unix())
}

const readOnlyText = "Namespace is in read-only mode"

func cmdSet(c *conn, args [][]byte) {
	if len(args) == 4 {
		if !c.admin {
			c.srv.stats.unauthorized.Add(1)
			c.fail("Permission denied")
			return
		}
	} else if !c.exact0(args, 3) {
		return
	}
	switch {
	case len(args[1]) > segment.MaxKey:
		c.fail("Key too large")
		return
	case !c.writable:
		c.fail(readOnlyText)
		return
	}
	key, written, err := c.ns.set(c.ctx, args[1], args[2], stamp(args, 3))
	switch {
	case err != nil:
		c.failWith(err, textCannotWriteData)
	case !written:
		c.out = resp.AppendNil(c.out)
	default:
		c.out = resp.AppendBulk(c.out, key)
	}
}

// key checks the argument of a command that has one key, and that the
// namespace can be asked.
func (c *conn) key(args [][]byte) bool {
	if !c.exact(args, 2) {
		return false
	}
	if len(args[1]) > segment.MaxKey {
		c.fail("Invalid key")
		return false
	}
	return true
}

func cmdGet(c *conn, args [][]byte) {
	if c.key(args) {
		c.get(args[1])
	}
}

// get answers with a payload, read straight into the output.
func (c *conn) get(key []byte) {
	e, err := c.ns.lookup(key)
	if errors.Is(err, backend.ErrNotFound) {
		c.out = resp.AppendNil(c.out)
		return
	}
	if err != nil {
		c.failWith(err, internalError)
		return
	}
	before := len(c.out)
	c.out = resp.AppendBulkHead(c.out, int(e.length))
	c.out, err = c.ns.payload(c.ctx, e, c.out)
	if err != nil {
		c.out = c.out[:before]
		c.failWith(err, internalError)
		return
	}
	c.out = append(c.out, "\r\n"...)
}

func cmdMGet(c *conn, args [][]byte) {
	if len(args) < 2 {
		c.fail("Invalid arguments")
		return
	}
	for _, key := range args[1:] {
		if len(key) > segment.MaxKey {
			c.fail("Invalid key")
			return
		}
	}
	if err := c.ns.usable(); err != nil {
		c.failWith(err, internalError)
		return
	}
	c.out = resp.AppendArray(c.out, len(args)-1)
	for _, key := range args[1:] {
		c.get(key)
		if len(c.out) > outFlush && c.flushPart() != nil {
			return
		}
	}
}

func cmdDel(c *conn, args [][]byte) {
	if len(args) == 3 {
		if !c.admin {
			c.srv.stats.unauthorized.Add(1)
			c.fail("Permission denied")
			return
		}
	} else if !c.exact(args, 2) {
		return
	}
	switch {
	case len(args[1]) > segment.MaxKey:
		c.fail("Invalid key")
		return
	case !c.writable:
		c.fail(readOnlyText)
		return
	}
	if err := c.ns.remove(c.ctx, args[1], stamp(args, 2)); err != nil {
		c.failWith(err, textCannotWriteData)
		return
	}
	c.ok()
}

// answer looks the key up and answers with what found gives, or as missing
// does.
func (c *conn) answer(args [][]byte, missing func([]byte) []byte, found func(e entry) int64) {
	if !c.key(args) {
		return
	}
	e, err := c.ns.lookup(args[1])
	switch {
	case errors.Is(err, backend.ErrNotFound):
		c.out = missing(c.out)
	case err != nil:
		c.failWith(err, internalError)
	default:
		c.out = resp.AppendInt(c.out, found(e))
	}
}

func cmdExists(c *conn, args [][]byte) {
	c.answer(args, func(b []byte) []byte { return resp.AppendInt(b, 0) }, func(entry) int64 { return 1 })
}

func cmdLength(c *conn, args [][]byte) {
	c.answer(args, resp.AppendNil, func(e entry) int64 { return int64(e.length) })
}

func cmdKeyTime(c *conn, args [][]byte) {
	c.answer(args, resp.AppendNil, func(e entry) int64 { return int64(e.timestamp) })
}

func cmdCheck(c *conn, args [][]byte) {
	c.answer(args, resp.AppendNil, func(e entry) int64 {
		_, err := c.ns.payload(c.ctx, e, nil)
		switch {
		case err == nil:
			return 1
		case errors.Is(err, ErrDamaged):
			return 0
		}
		return -1
	})
}

func cmdKeyCur(c *conn, args [][]byte) {
	if !c.exact(args, 2) {
		return
	}
	b, err := c.ns.keyCursor(args[1])
	if err != nil {
		c.failWith(err, internalError)
		return
	}
	c.out = resp.AppendBulk(c.out, b)
}

func cmdScan(c *conn, args [][]byte) { c.scan(args, false) }

func cmdRScan(c *conn, args [][]byte) { c.scan(args, true) }

func (c *conn) scan(args [][]byte, backwards bool) {
	var from []byte
	if len(args) > 1 {
		from = args[1]
	}
	list, next, err := c.ns.scan(from, len(args) > 1, backwards)
	if err != nil {
		c.failWith(err, internalError)
		return
	}
	c.out = resp.AppendArray(c.out, 2)
	c.out = resp.AppendBulk(c.out, next)
	c.out = resp.AppendArray(c.out, len(list))
	for _, e := range list {
		c.out = resp.AppendArray(c.out, 3)
		c.out = resp.AppendBulk(c.out, e.Key)
		c.out = resp.AppendInt(c.out, int64(int32(e.Length)))
		c.out = resp.AppendInt(c.out, int64(int32(e.Timestamp)))
	}
}

func cmdHistory(c *conn, args [][]byte) {
	if len(args) != 2 && len(args) != 3 {
		c.fail("Invalid arguments")
		return
	}
	if err := c.ns.usable(); err != nil {
		c.failWith(err, internalError)
		return
	}
	var at *place
	if len(args) == 3 {
		if len(args[2]) != 8 {
			c.fail("Invalid arguments")
			return
		}
		at = &place{binary.LittleEndian.Uint32(args[2]), binary.LittleEndian.Uint32(args[2][4:])}
	}
	v, err := c.ns.history(c.ctx, args[1], at)
	if err != nil {
		c.failWith(err, internalError)
		return
	}
	c.out = resp.AppendArray(c.out, 3)
	if v.parent == nowhere {
		c.out = resp.AppendNil(c.out)
	} else {
		p := binary.LittleEndian.AppendUint32(nil, v.parent.file)
		c.out = resp.AppendBulk(c.out, binary.LittleEndian.AppendUint32(p, v.parent.offset))
	}
	c.out = resp.AppendBulk(c.out, strconv.FormatUint(uint64(v.timestamp), 10))
	c.out = resp.AppendBulk(c.out, v.payload)
}

func cmdDBSize(c *conn, _ [][]byte) {
	c.ns.mu.RLock()
	live := c.ns.index.live
	c.ns.mu.RUnlock()
	c.out = resp.AppendInt(c.out, int64(live))
}

func cmdTime(c *conn, _ [][]byte) {
	now := time.Now()
	c.out = resp.AppendArray(c.out, 2)
	c.out = resp.AppendBulk(c.out, strconv.FormatInt(now.Unix(), 10))
	c.out = resp.AppendBulk(c.out, strconv.FormatInt(int64(now.Nanosecond()/1000), 10))
}

func equal[T, U string | []byte](a T, b U) bool {
	return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1
}

func mib(n int64) string { return fmt.Sprintf("%.2f", float64(n)/(1<<20)) }
