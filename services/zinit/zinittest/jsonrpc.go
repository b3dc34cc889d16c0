package zinittest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"go.yaml.in/yaml/v3"
)

type rpcConn struct {
	d    *Daemon
	conn net.Conn
	mu   sync.Mutex // of writes
	gone chan struct{}
	work sync.WaitGroup
}

func (c *rpcConn) write(v any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, _ = c.conn.Write(append(compact(v), '\n')) // a client that is gone
}

type rpcRequest struct {
	ID     json.RawMessage `json:"id"`
	Method string          `json:"method"`
	Params json.RawMessage `json:"params"`
}

type rpcAnswer struct {
	Version string          `json:"jsonrpc"`
	ID      json.RawMessage `json:"id"`
	Result  any             `json:"result"`
}

type rpcFailure struct {
	Version string          `json:"jsonrpc"`
	ID      json.RawMessage `json:"id"`
	Error   rpcError        `json:"error"`
}

type rpcError struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
	Data    any    `json:"data,omitempty"`
}

func (e rpcError) Error() string { return e.Message }

var parseError = rpcFailure{"2.0", json.RawMessage("null"), rpcError{Code: -32700, Message: "Parse error"}}

// serveRPC answers requests until the client is gone.
func (d *Daemon) serveRPC(conn net.Conn) {
	c := &rpcConn{d: d, conn: conn, gone: make(chan struct{})}
	defer c.work.Wait()
	defer close(c.gone)
	var rest []byte
	chunk := make([]byte, 64<<10)
	for {
		n, err := conn.Read(chunk)
		if err != nil {
			return
		}
		rest = append(rest, chunk[:n]...)
		for {
			var one []byte
			if one, rest = cut(rest); one == nil {
				break
			}
			c.take(one)
		}
	}
}

// cut takes the first message of a stream: what is between the brackets, or,
// without one, up to the end of the line.
func cut(b []byte) (one, rest []byte) {
	b = bytes.TrimLeft(b, " \t\r\n")
	if len(b) == 0 {
		return nil, nil
	}
	if b[0] != '{' && b[0] != '[' {
		if at := bytes.IndexByte(b, '\n'); at >= 0 {
			return b[:at], b[at+1:]
		}
		return nil, b
	}
	depth, quoted := 0, false
	for n := 0; n < len(b); n++ {
		switch c := b[n]; {
		case quoted && c == '\\':
			n++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			depth++
		case c == '}' || c == ']':
			if depth--; depth == 0 {
				return b[:n+1], b[n+1:]
			}
		}
	}
	return nil, b
}

func (c *rpcConn) take(message []byte) {
	if message[0] != '{' && message[0] != '[' { // recorded so: once for the words, once for the end of the line
		c.write(parseError)
		c.write(parseError)
		return
	}
	message = bytes.Clone(message)
	c.work.Go(func() {
		if message[0] == '[' {
			var list []rpcRequest
			if json.Unmarshal(message, &list) != nil {
				c.write(parseError)
				return
			}
			answers := []any{}
			for _, r := range list {
				answers = append(answers, c.answer(r))
			}
			c.write(answers)
			return
		}
		var r rpcRequest
		if json.Unmarshal(message, &r) != nil {
			c.write(parseError)
			return
		}
		if r.Method == "stream_subscribeLogs" {
			c.subscribe(r)
			return
		}
		if a := c.answer(r); a != nil {
			c.write(a)
		}
	})
}

func (c *rpcConn) answer(r rpcRequest) any {
	if r.Method == "system_shutdown" || r.Method == "system_reboot" {
		c.d.work.Add(1)
		go func() { defer c.d.work.Done(); c.d.Shutdown() }()
		return nil // its process ends before it could
	}
	result, err := c.d.rpcCall(r.Method, params(r.Params))
	if err == nil {
		return rpcAnswer{"2.0", r.ID, result}
	}
	var e rpcError
	if !errors.As(err, &e) {
		e = rpcError{Code: -32603, Message: err.Error()}
	}
	return rpcFailure{"2.0", r.ID, e}
}

// params gives parameters in order, whether they came so or by name.
func params(raw json.RawMessage) []any {
	var list []any
	if json.Unmarshal(raw, &list) == nil {
		return list
	}
	var named map[string]any
	if json.Unmarshal(raw, &named) != nil {
		return nil
	}
	for _, k := range []string{"name", "signal", "content"} {
		if v, ok := named[k]; ok {
			list = append(list, v)
		}
	}
	return list
}

var actions = map[string]string{
	"service_status": "getting status", "service_start": "starting service", "service_stop": "stopping service",
	"service_monitor": "monitoring service", "service_forget": "forgetting service", "service_kill": "sending signal",
	"service_stats": "collecting stats", "service_create": "creating service", "service_delete": "deleting service", "service_get": "getting service",
}

var hints = map[int]string{
	-32000: "Ensure the service is monitored or the name is correct",
	-32001: "The service is already monitored; call service_forget or control it with start/stop",
	-32002: "Service is already up; use service_stop or restart",
	-32003: "Service is down; start it before sending signals or requesting stats",
	-32006: "Wait for shutdown to complete or avoid mutating operations during shutdown",
}

func (d *Daemon) rpcCall(method string, args []any) (any, error) {
	switch method {
	case "service_list":
		return d.list(), nil
	case "rpc.discover":
		return "{\n  \"openrpc\": \"1.2.6\",\n  \"info\": {\n    \"version\": \"1.0.0\",\n    \"title\": \"Zinit JSON-RPC API\"\n  }\n}\n", nil
	case "stream_currentLogs":
		old, _, end := d.log.tap()
		end()
		out := []string{}
		for _, l := range old {
			if len(args) == 0 || args[0] == nil || strings.HasPrefix(l[4:], fmt.Sprint(args[0], ":")) {
				out = append(out, l)
			}
		}
		return out, nil
	}
	action, ok := actions[method]
	if !ok {
		return nil, rpcError{Code: -32601, Message: "Method not found"}
	}
	if len(args) == 0 {
		return nil, rpcError{-32602, "Invalid params", "No more params"}
	}
	name, ok := args[0].(string)
	if !ok {
		return nil, rpcError{-32602, "Invalid params", "invalid type"}
	}
	switch method {
	case "service_status":
		v, err := d.status(name)
		return v, explained(err, action)
	case "service_start":
		return nil, explained(d.start(name), action)
	case "service_stop":
		return nil, explained(d.stopNamed(name), action)
	case "service_forget":
		return nil, explained(d.forget(name), action)
	case "service_stats":
		v, err := d.status(name)
		if err == nil && v.PID == 0 {
			err = down(name)
		}
		return map[string]any{"name": name, "pid": v.PID, "memory_usage": 0, "cpu_usage": 0, "children": []any{}}, explained(err, action)
	case "service_kill":
		if len(args) < 2 {
			return nil, rpcError{-32602, "Invalid params", "No more params"}
		}
		return nil, d.rpcKill(name, fmt.Sprint(args[1]), action)
	}
	if strings.ContainsAny(name, `/\.`) {
		return nil, rpcError{-32602, fmt.Sprintf("%s: invalid service name '%s'", action, name), map[string]any{
			"code_name": "InvalidServiceName", "action": action, "service": name, "hint": `Name must not contain '/', '\\' or '.'`}}
	}
	if method == "service_monitor" {
		return nil, explained(d.monitorFile(name), action)
	}
	return d.rpcFile(method, name, args[1:], action)
}

func (d *Daemon) rpcKill(name, signal, action string) error {
	err := d.killNamed(name, signal)
	var f *failure
	if errors.As(err, &f) && f.code == -32004 {
		return rpcError{f.code, fmt.Sprintf("parsing signal: invalid signal '%s'", signal), map[string]any{
			"action": "parsing signal", "code_name": f.name, "hint": "Use a valid POSIX signal like SIGTERM or SIGKILL", "signal": signal}}
	}
	return explained(err, action)
}

// explained gives a failure as JSON-RPC has it.
func explained(err error, action string) error {
	var f *failure
	if !errors.As(err, &f) {
		return err
	}
	message := action + ": " + f.rpc
	if f.code == -32005 {
		return rpcError{f.code, message, map[string]any{"action": "loading service config", "code_name": f.name,
			"hint": "Verify the YAML file exists and is valid", "service": f.service}}
	}
	return rpcError{f.code, message, map[string]any{"action": action, "cause_chain": nil, "code_name": f.name, "hint": hints[f.code],
		"retryable": f.code == -32001 || f.code == -32003, "service": f.service}}
}

// rpcFile is what clients can do with service files.
func (d *Daemon) rpcFile(method, name string, args []any, action string) (any, error) {
	path := filepath.Join(d.o.Dir, name+".yaml")
	text, err := os.ReadFile(path)
	there := err == nil
	missing := func(action2 string) error {
		return rpcError{-32000, fmt.Sprintf("%s: Service '%s' not found", action, name), map[string]any{"action": action2,
			"code_name": "ServiceNotFound", "hint": "Ensure the service file exists", "service": name}}
	}
	switch method {
	case "service_get":
		if !there {
			return nil, missing("reading service file")
		}
		var v any
		err := yaml.Unmarshal(text, &v)
		return v, err
	case "service_delete":
		if !there {
			return nil, missing("deleting service file")
		}
		return fmt.Sprintf("Service '%s' deleted successfully", name), os.Remove(path)
	}
	if there {
		return nil, rpcError{-32007, fmt.Sprintf("%s: Service '%s' already exists", action, name), map[string]any{"action": "creating service file",
			"code_name": "ServiceAlreadyExists", "hint": "Use a different name or delete the existing service first", "service": name}}
	}
	if len(args) == 0 {
		return nil, rpcError{-32602, "Invalid params", "No more params"}
	}
	out, err := yaml.Marshal(args[0])
	if err != nil {
		return nil, err
	}
	return fmt.Sprintf("Service '%s' created successfully", name), os.WriteFile(path, out, 0o644)
}

func (c *rpcConn) subscribe(r rpcRequest) {
	filter := ""
	if args := params(r.Params); len(args) > 0 && args[0] != nil {
		filter = fmt.Sprint(args[0], ":")
	}
	_, lines, end := c.d.log.tap()
	defer end()
	id := rand.Int64N(1 << 53)
	c.write(rpcAnswer{"2.0", r.ID, id})
	for {
		select {
		case l := <-lines:
			if strings.HasPrefix(l[4:], filter) {
				c.write(map[string]any{"jsonrpc": "2.0", "method": "stream_subscribeLogs", "params": map[string]any{"subscription": id, "result": l}})
			}
		case <-c.gone:
			return
		case <-c.d.done:
			return
		}
	}
}
