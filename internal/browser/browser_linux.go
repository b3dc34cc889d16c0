package browser

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// answerTime is how long the browser may take to answer.
const answerTime = 30 * time.Second

// Browser is one running Chromium.
type Browser struct {
	cmd  *exec.Cmd
	to   *os.File
	mu   sync.Mutex
	next int
	wait map[int]chan answer
	see  map[string]*Page // by session
	gone chan struct{}
}

type answer struct {
	Result json.RawMessage
	Error  *struct{ Message string }
}

// Path gives the browser's program: CHROMIUM_BIN, or one of the usual names.
// Empty: there is none.
func Path() string {
	for _, name := range []string{os.Getenv("CHROMIUM_BIN"), "chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}

// Start runs a browser until the test ends.
func Start(t testing.TB) *Browser {
	t.Helper()
	program := Path()
	if program == "" {
		t.Skip("no chromium on this machine")
	}
	toRead, to, err := os.Pipe()
	require.NoError(t, err)
	from, fromWrite, err := os.Pipe()
	require.NoError(t, err)
	dir, err := os.MkdirTemp("", "quantumd-browser-")
	require.NoError(t, err)
	b := &Browser{to: to, wait: map[int]chan answer{}, see: map[string]*Page{}, gone: make(chan struct{})}
	b.cmd = exec.Command(program, "--headless", "--no-sandbox", "--remote-debugging-pipe", "--user-data-dir="+dir, "--disable-gpu",
		"--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
		"--disable-default-apps", "--disable-extensions", "--force-color-profile=srgb", "--hide-scrollbars", "about:blank")
	b.cmd.ExtraFiles = []*os.File{toRead, fromWrite} // 3 and 4
	b.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	b.cmd.Env = append(os.Environ(), "HOME="+dir)
	require.NoError(t, b.cmd.Start())
	_ = toRead.Close()
	_ = fromWrite.Close()
	go b.listen(from)
	t.Cleanup(func() {
		_ = syscall.Kill(-b.cmd.Process.Pid, syscall.SIGKILL) // it and its helpers
		_ = b.cmd.Wait()
		_ = to.Close()
		<-b.gone
		_ = from.Close()
		_ = os.RemoveAll(dir)
	})
	return b
}

// maxMessage bounds one message: a picture is some of them.
const maxMessage = 64 << 20

func (b *Browser) listen(from io.Reader) {
	defer close(b.gone)
	in := bufio.NewScanner(from)
	in.Buffer(make([]byte, 1<<16), maxMessage)
	in.Split(func(data []byte, end bool) (int, []byte, error) {
		if i := bytes.IndexByte(data, 0); i >= 0 {
			return i + 1, data[:i], nil
		}
		return 0, nil, nil
	})
	for in.Scan() {
		var m struct {
			ID        int
			SessionID string
			Method    string
			Params    json.RawMessage
			answer
		}
		if json.Unmarshal(in.Bytes(), &m) != nil {
			continue
		}
		b.mu.Lock()
		waiting, page := b.wait[m.ID], b.see[m.SessionID]
		delete(b.wait, m.ID)
		b.mu.Unlock()
		if m.ID != 0 && waiting != nil {
			waiting <- answer{append(json.RawMessage(nil), m.Result...), m.Error}
		} else if page != nil {
			page.happened(m.Method, append(json.RawMessage(nil), m.Params...))
		}
	}
}

// call sends a command and waits for its answer, which goes into out.
func (b *Browser) call(session, method string, params, out any) error {
	b.mu.Lock()
	b.next++
	id := b.next
	answered := make(chan answer, 1)
	b.wait[id] = answered
	data, err := json.Marshal(map[string]any{"id": id, "method": method, "params": params, "sessionId": session})
	if session == "" {
		data, err = json.Marshal(map[string]any{"id": id, "method": method, "params": params})
	}
	if err == nil {
		_, err = b.to.Write(append(data, 0))
	}
	b.mu.Unlock()
	if err != nil {
		return fmt.Errorf("browser %s: %w", method, err)
	}
	select {
	case a := <-answered:
		if a.Error != nil {
			return fmt.Errorf("browser %s: %s", method, a.Error.Message)
		}
		if out == nil {
			return nil
		}
		return json.Unmarshal(a.Result, out)
	case <-b.gone:
		return fmt.Errorf("browser %s: it ended", method)
	case <-time.After(answerTime):
		return fmt.Errorf("browser %s: no answer", method)
	}
}

// Screen is how a page is shown.
type Screen struct {
	Width, Height int
	Dark          bool
	LessMotion    bool
}

// Page is one open page.
type Page struct {
	browser  *Browser
	session  string
	mu       sync.Mutex
	problems []string
	requests []string
}

// Open opens a page and waits until it is loaded.
func (b *Browser) Open(t testing.TB, url string, s Screen) *Page {
	t.Helper()
	var target struct{ TargetID string }
	require.NoError(t, b.call("", "Target.createTarget", map[string]any{"url": "about:blank"}, &target))
	var attached struct{ SessionID string }
	require.NoError(t, b.call("", "Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached))
	p := &Page{browser: b, session: attached.SessionID}
	b.mu.Lock()
	b.see[p.session] = p
	b.mu.Unlock()
	for _, domain := range []string{"Page", "Runtime", "Log", "Network"} {
		p.must(t, domain+".enable", map[string]any{}, nil)
	}
	p.Show(t, s)
	p.must(t, "Page.navigate", map[string]any{"url": url}, nil)
	p.Eventually(t, `document.readyState === "complete" && location.href !== "about:blank"`)
	return p
}

// Show changes how the page is shown.
func (p *Page) Show(t testing.TB, s Screen) {
	t.Helper()
	p.must(t, "Emulation.setDeviceMetricsOverride", map[string]any{"width": s.Width, "height": s.Height, "deviceScaleFactor": 1, "mobile": s.Width < 600}, nil)
	scheme, motion := "light", "no-preference"
	if s.Dark {
		scheme = "dark"
	}
	if s.LessMotion {
		motion = "reduce"
	}
	p.must(t, "Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{
		{"name": "prefers-color-scheme", "value": scheme}, {"name": "prefers-reduced-motion", "value": motion}}}, nil)
}

func (p *Page) must(t testing.TB, method string, params, out any) {
	t.Helper()
	require.NoError(t, p.browser.call(p.session, method, params, out))
}

// Eval gives what an expression is, into out.
func (p *Page) Eval(t testing.TB, expression string, out any) {
	t.Helper()
	require.NoError(t, p.eval(expression, out))
}

func (p *Page) eval(expression string, out any) error {
	var r struct {
		Result           struct{ Value json.RawMessage }
		ExceptionDetails *struct {
			Text      string
			Exception struct{ Description string }
		}
	}
	// In a world of its own the page's policy does not bind what the test asks.
	err := p.browser.call(p.session, "Runtime.evaluate", map[string]any{"expression": expression, "returnByValue": true, "awaitPromise": true}, &r)
	switch {
	case err != nil:
		return err
	case r.ExceptionDetails != nil:
		return fmt.Errorf("%s: %s %s", expression, r.ExceptionDetails.Text, r.ExceptionDetails.Exception.Description)
	case out == nil || r.Result.Value == nil:
		return nil
	}
	return json.Unmarshal(r.Result.Value, out)
}

// Text is the text of the element that a selector finds.
func (p *Page) Text(t testing.TB, selector string) string {
	t.Helper()
	var text string
	p.Eval(t, fmt.Sprintf(`(document.querySelector(%q)||{innerText:"no such element"}).innerText`, selector), &text)
	return text
}

// Eventually waits until an expression is true.
func (p *Page) Eventually(t testing.TB, expression string) {
	t.Helper()
	ok := false
	if !waitFor(func() bool { return p.eval(expression, &ok) == nil && ok }) {
		t.Fatalf("the page never had %s; it shows:\n%s\n%v", expression, p.Text(t, "body"), p.Problems())
	}
}

func waitFor(ok func() bool) bool {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	end := time.After(answerTime)
	for {
		if ok() {
			return true
		}
		select {
		case <-end:
			return false
		case <-tick.C:
		}
	}
}

// Press presses a key, such as Tab or Enter.
func (p *Page) Press(t testing.TB, key string) {
	t.Helper()
	codes := map[string]int{"Tab": 9, "Enter": 13, " ": 32}
	down := map[string]any{"type": "keyDown", "key": key, "code": key, "windowsVirtualKeyCode": codes[key]}
	switch key {
	case "Enter":
		down["text"] = "\r"
	case " ":
		down["text"], down["code"] = " ", "Space"
	}
	p.must(t, "Input.dispatchKeyEvent", down, nil)
	p.must(t, "Input.dispatchKeyEvent", map[string]any{"type": "keyUp", "key": key, "code": down["code"], "windowsVirtualKeyCode": codes[key]}, nil)
}

// Picture takes the whole page as PNG.
func (p *Page) Picture(t testing.TB) []byte {
	t.Helper()
	var shot struct{ Data string }
	p.must(t, "Page.captureScreenshot", map[string]any{"format": "png", "captureBeyondViewport": true}, &shot)
	png, err := base64.StdEncoding.DecodeString(shot.Data)
	require.NoError(t, err)
	return png
}

// Problems lists errors on the console, exceptions, and violations of the
// content security policy.
func (p *Page) Problems() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.problems...)
}

// Requests lists the URLs that the page asked for.
func (p *Page) Requests() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.requests...)
}

func (p *Page) happened(method string, params json.RawMessage) {
	var m struct {
		Entry struct{ Level, Text, URL string }
		Type  string
		Args  []struct{ Value any }

		ExceptionDetails struct {
			Text      string
			Exception struct{ Description string }
		}
		Request struct{ URL string }
	}
	if json.Unmarshal(params, &m) != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case method == "Log.entryAdded" && (m.Entry.Level == "error" || m.Entry.Level == "warning"):
		p.problems = append(p.problems, m.Entry.Text+" "+m.Entry.URL)
	case method == "Runtime.consoleAPICalled" && (m.Type == "error" || m.Type == "warning" || m.Type == "assert"):
		p.problems = append(p.problems, fmt.Sprint(m.Args))
	case method == "Runtime.exceptionThrown":
		p.problems = append(p.problems, m.ExceptionDetails.Text+" "+m.ExceptionDetails.Exception.Description)
	case method == "Network.requestWillBeSent":
		p.requests = append(p.requests, m.Request.URL)
	}
}
