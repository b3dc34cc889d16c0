// Package pushgateway pushes metrics to a Prometheus pushgateway, for machines that
// nobody scrapes.
//
// Nothing waits for it: a Pusher runs in a goroutine of its caller until the
// context ends, says what is new once, and deletes at the end what it pushed, for
// values that nobody keeps up to date would go on saying that all is well. With
// auto it asks first whether there is a pushgateway.
//
// It gathers no metrics of its own, and serves none.
package pushgateway

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/push"
)

const (
	// DefaultAddress is what auto asks for.
	DefaultAddress = "http://127.0.0.1:9091"
	// DefaultEvery is the pause between two pushes.
	DefaultEvery = 15 * time.Second

	timeout = 5 * time.Second
	job     = "quantumd"
)

// Options say what is pushed, and where to. All are needed.
type Options struct {
	Gatherer prometheus.Gatherer
	// Address is asked before each push: a URL, `auto`, or `off` or nothing for none.
	// A URL may hold user and password; they are never logged.
	Address func() string
	Auto    string        // the URL that auto asks for
	Every   time.Duration // the pause between two pushes
	Host    string        // the label instance of the group
	System  string        // its label system; deployment is a label of each metric
	Pushed  func(error)   // is called after each try
	Logger  *slog.Logger
}

// Pusher pushes metrics to a pushgateway.
type Pusher struct {
	opts Options

	state string // what the last round found: "", absent, pushing, failing
	url   string // of the last push: what has to be deleted at the end
}

// New gives a pusher; Run is called once.
func New(o Options) *Pusher { return &Pusher{opts: o} }

// Run pushes until the context ends, and then deletes what it pushed.
func (p *Pusher) Run(ctx context.Context) {
	client := &http.Client{Timeout: timeout, Transport: &http.Transport{Proxy: nil, MaxIdleConns: 1, IdleConnTimeout: time.Minute}}
	defer client.CloseIdleConnections()
	for {
		p.round(ctx, client)
		if !pause(ctx, p.opts.Every) {
			break
		}
	}
	p.leave(context.WithoutCancel(ctx), client)
}

// round asks, pushes, and says what is new. At the end of the system it has a
// second: a push that is cut off can arrive after what deletes it.
func (p *Pusher) round(ending context.Context, client *http.Client) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ending), timeout)
	defer cancel()
	defer context.AfterFunc(ending, func() { time.AfterFunc(time.Second, cancel) })()
	address, auto := p.opts.Address(), false
	switch address {
	case "off", "":
		p.now("", nil)
		return
	case "auto":
		address, auto = p.opts.Auto, true
	}
	address = strings.TrimSuffix(address, "/")
	if auto && !ready(ctx, client, address) {
		p.now("absent", nil)
		return
	}
	err := p.pusher(client, address).PushContext(ctx)
	p.opts.Pushed(err)
	if err != nil {
		p.now("failing", err)
		return
	}
	p.url = address
	p.now("pushing", nil)
}

func (p *Pusher) pusher(client *http.Client, address string) *push.Pusher {
	bare, user := splitUser(address)
	pusher := push.New(bare, job).Client(client).Gatherer(p.opts.Gatherer).Grouping("instance", p.opts.Host).Grouping("system", p.opts.System) // deployment is a label of each metric
	if user != nil {
		password, _ := user.Password()
		pusher = pusher.BasicAuth(user.Username(), password)
	}
	return pusher
}

// splitUser takes user and password out of a URL: errors print URLs.
func splitUser(address string) (string, *url.Userinfo) {
	u, err := url.Parse(address)
	if err != nil || u.User == nil {
		return address, nil
	}
	user := u.User
	u.User = nil
	return u.String(), user
}

func ready(ctx context.Context, client *http.Client, address string) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address+"/-/ready", nil)
	if err != nil {
		return false
	}
	resp, err := client.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()                                       //nolint:errcheck // read only
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection can be used again
	return resp.StatusCode == http.StatusOK
}

// now logs what changed since the last round, once.
func (p *Pusher) now(state string, err error) {
	if state == p.state {
		return
	}
	switch {
	case state == "failing":
		p.opts.Logger.Warn("metrics cannot be pushed; it is tried again", "err", err)
	case state == "pushing":
		p.opts.Logger.Info("metrics are pushed", "url", bareURL(p.url))
	case p.state == "pushing" || p.state == "failing":
		p.opts.Logger.Info("metrics are no longer pushed", "why", cmp.Or(state, "off"))
	}
	p.state = state
}

// leave deletes what was pushed: values that nobody keeps up to date would go
// on saying that all is well.
func (p *Pusher) leave(ctx context.Context, client *http.Client) {
	if p.url == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	if err := deleteGroup(ctx, client, p.pusher(client, p.url)); err != nil {
		p.opts.Logger.Debug("what was pushed stays on the pushgateway", "err", err)
	}
}

// deleteGroup is Pusher.Delete with an end.
func deleteGroup(ctx context.Context, client *http.Client, p *push.Pusher) error {
	bounded := *client
	if deadline, ok := ctx.Deadline(); ok {
		bounded.Timeout = time.Until(deadline)
	}
	if err := p.Client(&bounded).Delete(); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	return nil
}

func bareURL(address string) string {
	bare, _ := splitUser(address)
	return bare
}

// pause waits; false when the context ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
