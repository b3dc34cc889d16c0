package zinittest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"

	"github.com/threefoldtech/quantumd/services/zinit"
)

// compact encodes without what JSON does not need, and without escapes of HTML.
func compact(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err) // texts, numbers and maps of them
	}
	return bytes.TrimRight(b.Bytes(), "\n")
}

// serveLine answers one request. Errors of the connection are the client's.
func (d *Daemon) serveLine(conn net.Conn) {
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil && err != io.EOF {
		return
	}
	words, err := zinit.Split(line)
	var body any
	switch {
	case err != nil:
		err = fmt.Errorf("invalid command syntax")
	case len(words) == 0:
		err = fmt.Errorf("unknown command")
	case words[0] == "log":
		if len(words) == 1 || len(words) == 2 && words[1] == "snapshot" {
			d.lineLog(conn, len(words) == 1)
			return
		}
		err = fmt.Errorf("invalid log command arguments")
	default:
		body, err = d.lineCommand(words)
	}
	answer := struct {
		State string `json:"state"`
		Body  any    `json:"body"`
	}{"ok", body}
	if err != nil {
		answer.State, answer.Body = "error", err.Error()
	}
	_, _ = conn.Write(compact(answer))
}

func (d *Daemon) lineCommand(words []string) (any, error) {
	switch command := words[0]; {
	case command == "list":
		return d.list(), nil
	case command == "shutdown" || command == "reboot":
		d.work.Add(1)
		go func() { defer d.work.Done(); d.Shutdown() }()
		return nil, nil
	case command == "kill" && len(words) == 3:
		return nil, d.killNamed(words[1], words[2])
	case len(words) != 2:
	case command == "status":
		v, err := d.status(words[1])
		return map[string]any{"after": v.After, "name": v.Name, "pid": v.PID, "state": v.State, "target": v.Target}, err
	case command == "start":
		return nil, d.start(words[1])
	case command == "stop":
		return nil, d.stopNamed(words[1])
	case command == "monitor":
		return nil, d.monitorFile(words[1])
	case command == "forget":
		return nil, d.forget(words[1])
	}
	return nil, fmt.Errorf("unknown command '%s' or wrong arguments count", words[0])
}

func (d *Daemon) lineLog(conn net.Conn, follow bool) {
	old, lines, end := d.log.tap()
	defer end()
	for _, l := range old {
		if _, err := io.WriteString(conn, l+"\n"); err != nil {
			return
		}
	}
	for follow {
		select {
		case l := <-lines:
			if _, err := io.WriteString(conn, l+"\n"); err != nil {
				return
			}
		case <-d.done:
			return
		}
	}
}
