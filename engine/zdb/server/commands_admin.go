package server

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zdb/segment"
	"github.com/threefoldtech/quantumd/internal/resp"
)

func cmdMaster(c *conn, _ [][]byte) {
	c.master = true
	c.out = resp.AppendSimple(c.out, "Hello, master")
}

const (
	secureText      = "Only SECURE extra method supported"
	noChallengeText = "No CHALLENGE requested, secure authentication not available"
	hashLengthText  = "Invalid hash length"
	deniedText      = "Access denied"
)

func cmdAuth(c *conn, args [][]byte) {
	want := c.srv.o.AdminPassword.Reveal()
	switch len(args) {
	case 2:
		switch {
		case want == "":
			c.fail("Authentication disabled")
		case !c.exact(args, 2):
		case len(args[1]) > 128:
			c.fail("Password too long")
		default:
			c.becomeAdmin(equal(args[1], want))
		}
	case 3:
		if c.exact(args, 3) {
			c.authSecure(args, want)
		}
	default:
		c.fail("Unexpected arguments")
	}
}

func (c *conn) becomeAdmin(right bool) {
	if !right {
		c.srv.stats.unauthorized.Add(1)
		c.fail(deniedText)
		return
	}
	c.admin = true
	c.ok()
}

func (c *conn) authSecure(args [][]byte, want string) {
	switch {
	case !bytes.EqualFold(args[1], []byte("SECURE")):
		c.fail(secureText)
	case bytes.EqualFold(args[2], []byte("CHALLENGE")):
		var b [8]byte
		rand.Read(b[:]) // never fails
		c.challenge = hex.EncodeToString(b[:])
		c.out = resp.AppendSimple(c.out, c.challenge)
	case want == "":
		c.fail("Authentication disabled")
	case c.challenge == "":
		c.fail(noChallengeText)
	case len(args[2]) != 2*sha1.Size:
		c.fail(hashLengthText)
	default:
		right := equal(args[2], secureHash(c.challenge, want))
		c.challenge = ""
		c.becomeAdmin(right)
	}
}

// secureHash proves the knowledge of a password without sending it. SHA-1 is
// what the protocol has.
func secureHash(challenge, password string) string {
	sum := sha1.Sum([]byte(challenge + ":" + password))
	return hex.EncodeToString(sum[:])
}

func cmdSelect(c *conn, args [][]byte) {
	switch {
	case len(args) < 2:
		c.fail("Invalid argument")
		return
	case len(args[1]) > maxName:
		c.fail("Namespace too long")
		return
	}
	n, ok := c.srv.Namespace(string(args[1]))
	if !ok {
		c.fail("Namespace not found")
		return
	}
	n.mu.RLock()
	password, public := n.desc.Password, n.desc.Public
	n.mu.RUnlock()
	writable, refused := c.rights(args, password, public)
	if refused != "" {
		if refused == deniedText {
			c.srv.stats.unauthorized.Add(1)
		}
		c.fail(refused)
		return
	}
	if n != c.ns {
		c.ns.waiters.remove(c)
	}
	c.ns, c.writable = n, writable
	c.ok()
}

// rights says what SELECT with these arguments allows, or why nothing.
func (c *conn) rights(args [][]byte, password string, public bool) (writable bool, refused string) {
	switch {
	case password == "":
		return true, ""
	case len(args) == 2 && public:
		return false, ""
	case len(args) == 2:
		return false, "Namespace protected and private"
	case len(args) > 4:
		return false, "Too many arguments"
	case len(args) == 3 && len(args[2]) > 255:
		return false, "Password too long"
	case len(args) == 3:
		if !equal(args[2], password) {
			return false, deniedText
		}
		return true, ""
	case !bytes.EqualFold(args[2], []byte("SECURE")):
		return false, secureText
	case c.challenge == "":
		return false, noChallengeText
	case len(args[3]) != 2*sha1.Size:
		return false, hashLengthText
	case !equal(args[3], secureHash(c.challenge, password)):
		return false, deniedText
	}
	return true, ""
}

// named checks the argument of a command on a namespace by name.
func (c *conn) named(args [][]byte, n int) bool {
	if !c.exact(args, n) {
		return false
	}
	if len(args[1]) > maxName {
		c.fail("Namespace too long")
		return false
	}
	return true
}

// find gives the namespace that a request names.
func (c *conn) find(args [][]byte, n int, missing string) *Namespace {
	if !c.named(args, n) {
		return nil
	}
	ns, ok := c.srv.Namespace(string(args[1]))
	if !ok {
		c.fail(missing)
		return nil
	}
	return ns
}

func cmdNSNew(c *conn, args [][]byte) {
	if !c.named(args, 2) {
		return
	}
	name, s := string(args[1]), c.srv
	if !validName(name) || name == DefaultNamespace {
		c.fail(errName.text)
		return
	}
	s.admin.Lock()
	defer s.admin.Unlock()
	if _, ok := s.Namespace(name); ok {
		c.fail(errNameTaken.text)
		return
	}
	if _, err := s.create(c.ctx, name); err != nil {
		c.failWith(err, "Could not create namespace")
		return
	}
	c.ok()
}

func cmdNSDel(c *conn, args [][]byte) {
	if !c.named(args, 2) {
		return
	}
	if string(args[1]) == DefaultNamespace {
		c.fail("Cannot remove default namespace")
		return
	}
	n := c.find(args, 2, "This namespace doesn't exists")
	switch {
	case n == nil:
	case n == c.ns:
		c.fail("Cannot remove namespace you're currently using.")
	default:
		if err := c.srv.DeleteNamespace(c.ctx, n.name); err != nil {
			c.failWith(err, internalError)
			return
		}
		c.ok()
	}
}

func cmdNSList(c *conn, _ [][]byte) {
	names := c.srv.Namespaces()
	c.out = resp.AppendArray(c.out, len(names))
	for _, name := range names {
		c.out = resp.AppendBulk(c.out, name)
	}
}

func cmdNSJump(c *conn, _ [][]byte) {
	if _, err := c.ns.Jump(c.ctx); err != nil {
		c.failWith(err, internalError)
		return
	}
	c.ok()
}

func cmdReload(c *conn, args [][]byte) {
	n := c.find(args, 2, "Namespace not found")
	if n == nil {
		return
	}
	if err := n.Reload(c.ctx); err != nil {
		c.failWith(err, internalError)
		return
	}
	c.ok()
}

// cmdFlush empties a private namespace for a client that may write to it.
func cmdFlush(c *conn, _ [][]byte) {
	c.ns.mu.RLock()
	public := c.ns.desc.Public || c.ns.desc.Password == ""
	c.ns.mu.RUnlock()
	switch {
	case public:
		c.fail("Flushing public namespace denied")
		return
	case !c.writable:
		c.fail(readOnlyText)
		return
	}
	if err := c.ns.Flush(c.ctx); err != nil {
		c.failWith(err, internalError)
		return
	}
	c.ok()
}

func cmdNSSet(c *conn, args [][]byte) {
	if !c.named(args, 4) {
		return
	}
	if len(args[2]) > 256 || len(args[3]) > maxPassword {
		c.fail("Argument too long")
		return
	}
	n := c.find(args, 4, "Namespace not found")
	if n == nil {
		return
	}
	if err := c.setProperty(n, string(args[2]), args[3]); err != nil {
		c.failWith(err, internalError)
		return
	}
	c.ok()
}

func (c *conn) setProperty(n *Namespace, property string, value []byte) error {
	on := value[0] == '1'
	change := func(*segment.Descriptor) {} // lock, freeze and mode rewrite it too
	switch property {
	case "mode":
		if err := c.setMode(n, string(value)); err != nil {
			return err
		}
	case "lock":
		n.setLock(on, false)
	case "freeze":
		n.setLock(false, on)
	default:
		if n.name == DefaultNamespace {
			return &refusal{"Cannot update default namespace", nil}
		}
		switch property {
		case "maxsize":
			size := uint64(max(leadingNumber(value), 0))
			change = func(d *segment.Descriptor) { d.MaxSize = size }
		case "password":
			password := string(value)
			if password == "*" {
				password = ""
			}
			change = func(d *segment.Descriptor) { d.Password = password }
		case "public":
			change = func(d *segment.Descriptor) { d.Public = on }
		case "worm":
			change = func(d *segment.Descriptor) { d.Worm = on }
		default:
			return &refusal{"Invalid property", nil}
		}
	}
	return n.describe(change)
}

func (c *conn) setMode(n *Namespace, value string) error {
	var m Mode
	switch {
	case c.srv.o.Mode != 0:
		return &refusal{"This server instance is configured to use a single runtime mode", backend.ErrMode}
	case value == "user":
		m = User
	case value == "seq":
		m = Sequential
	default:
		return &refusal{"Invalid property value (expected: user, seq)", nil}
	}
	return n.setMode(m)
}

func cmdIndex(c *conn, args [][]byte) {
	if !c.min(args, 2) {
		return
	}
	switch {
	case len(args[1]) > 256:
		c.fail("Argument too long")
	case !bytes.EqualFold(args[1], []byte("DIRTY")):
		c.fail("Unknown INDEX subcommand")
	case len(args) == 3 && !bytes.EqualFold(args[2], []byte("RESET")):
		c.fail("Unknown INDEX DIRTY subcommand")
	case len(args) == 3:
		c.ns.ResetDirty(c.ns.DirtyIndexes())
		c.ok()
	default:
		ids := c.ns.DirtyIndexes()
		c.out = resp.AppendArray(c.out, len(ids))
		for _, id := range ids {
			c.out = resp.AppendInt(c.out, int64(id))
		}
	}
}

func cmdData(c *conn, args [][]byte) {
	if !c.min(args, 2) {
		return
	}
	switch {
	case len(args[1]) > 256:
		c.fail("Argument too long")
		return
	case !bytes.EqualFold(args[1], []byte("RAW")):
		c.fail("Unknown DATA subcommand")
		return
	case !c.min(args, 4):
		return
	}
	id, offset := leadingNumber(args[2]), leadingNumber(args[3])
	e, payload, err := c.ns.raw(c.ctx, id, offset)
	switch {
	case errors.Is(err, io.EOF):
		c.fail("EOF")
	case errors.Is(err, segment.ErrFormat):
		c.fail("Unexpected Internal Error")
	case err != nil:
		c.failWith(err, "Invalid Request")
	default:
		c.out = resp.AppendArray(c.out, 6)
		c.out = resp.AppendBulk(c.out, e.Key)
		c.out = resp.AppendInt(c.out, int64(e.Previous))
		c.out = resp.AppendBulk(c.out, fmt.Sprintf("0x%08x", e.CRC))
		c.out = resp.AppendInt(c.out, int64(e.Flags))
		c.out = resp.AppendInt(c.out, int64(e.Timestamp))
		c.out = resp.AppendBulk(c.out, payload)
	}
}

var errInvalidRequest = &refusal{"Invalid Request", nil}

// raw reads an entry of a data file by its place: io.EOF behind the end, an
// error matching segment.ErrFormat for a tombstone or nonsense.
func (n *Namespace) raw(ctx context.Context, id, offset int64) (segment.DataEntry, []byte, error) {
	var none segment.DataEntry
	n.mu.RLock()
	usable := !n.deleted && id >= 0 && id < int64(len(n.index.files))
	end := int64(-1)
	if n.active != nil && id == int64(n.active.id) {
		end = n.dataOff
	}
	n.mu.RUnlock()
	if !usable || offset < 0 {
		return none, nil, errInvalidRequest
	}
	h, err := n.openData(ctx, uint32(id))
	if err != nil {
		return none, nil, errInvalidRequest
	}
	defer n.data.release(h)
	if end < 0 {
		fi, err := h.Stat()
		if err != nil {
			return none, nil, err
		}
		end = fi.Size()
	}
	if offset >= end {
		return none, nil, io.EOF
	}
	head := make([]byte, min(segment.DataEntrySize+segment.MaxKey, end-offset))
	if _, err := h.ReadAt(head, offset); err != nil {
		return none, nil, err
	}
	e, err := segment.DecodeDataEntry(head)
	switch {
	case err != nil:
		return none, nil, err
	case e.Deleted():
		return none, nil, fmt.Errorf("%w: tombstone", segment.ErrFormat)
	case e.Length == 0:
		return none, nil, errInvalidRequest
	case offset+e.Size() > end:
		return none, nil, fmt.Errorf("%w: longer than its file", segment.ErrFormat)
	}
	payload := make([]byte, e.Length)
	_, err = h.ReadAt(payload, offset+segment.DataEntrySize+int64(len(e.Key)))
	return e, payload, err
}

func cmdHooks(c *conn, _ [][]byte) {
	calls := c.srv.hooklog.list()
	c.out = resp.AppendArray(c.out, len(calls))
	for i := range calls {
		h := &calls[i]
		args := h.event.Args()[2:]
		c.out = resp.AppendArray(c.out, 6)
		c.out = resp.AppendBulk(c.out, string(h.event.Kind))
		c.out = resp.AppendArray(c.out, len(args))
		for _, a := range args {
			c.out = resp.AppendBulk(c.out, a)
		}
		c.out = resp.AppendInt(c.out, int64(h.pid()))
		c.out = resp.AppendInt(c.out, h.started.Unix())
		var done, status int64
		if !h.done.IsZero() {
			done = h.done.Unix()
		}
		if h.failed {
			status = 1
		}
		c.out = resp.AppendInt(c.out, done)
		c.out = resp.AppendInt(c.out, status)
	}
}
