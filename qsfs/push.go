package qsfs

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/push"
)

const (
	defaultPushgateway = "http://127.0.0.1:9091"
	defaultPushEvery   = 15 * time.Second
	pushTimeout        = 5 * time.Second
	pushJob            = "quantumd"
)

// pusher pushes metrics to a pushgateway, for machines that nobody scrapes.
// Nothing waits for it. With auto it asks first whether there is one.
type pusher struct {
	sys    *System
	log    *slog.Logger
	gather prometheus.Gatherer
	host   string

	state string // what the last round found: "", absent, pushing, failing
	url   string // of the last push: what has to be deleted at the end
}

// startPush starts the pusher. What it does follows the configuration, also
// when that is loaded again.
func (s *System) startPush(ctx context.Context, stops *stopStack) error {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	p := &pusher{sys: s, log: s.log.With("component", "metrics"), host: host}
	if g, ok := s.opts.registerer.(prometheus.Gatherer); ok {
		p.gather = g
	} else {
		own := prometheus.NewRegistry()
		if err := own.Register(newCollector(s)); err != nil {
			return err
		}
		p.gather = own
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		p.run(ctx)
	}()
	stops.push(func() error {
		cancel()
		<-ended
		return nil
	})
	return nil
}

func (p *pusher) run(ctx context.Context) {
	client := &http.Client{Timeout: pushTimeout, Transport: &http.Transport{Proxy: nil, MaxIdleConns: 1, IdleConnTimeout: time.Minute}}
	defer client.CloseIdleConnections()
	for {
		p.round(ctx, client)
		if !wait(ctx, p.sys.opts.pushEvery) {
			break
		}
	}
	p.leave(context.WithoutCancel(ctx), client)
}

// round asks, pushes, and says what is new. At the end of the system it has a
// second: a push that is cut off can arrive after what deletes it.
func (p *pusher) round(ending context.Context, client *http.Client) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ending), pushTimeout)
	defer cancel()
	defer context.AfterFunc(ending, func() { time.AfterFunc(time.Second, cancel) })()
	address, auto := p.sys.settings().Metrics.Pushgateway, false
	switch address {
	case "off", "":
		p.now("", nil)
		return
	case "auto":
		address, auto = p.sys.opts.pushAuto, true
	}
	address = strings.TrimSuffix(address, "/")
	if auto && !ready(ctx, client, address) {
		p.now("absent", nil)
		return
	}
	err := p.pusher(client, address).PushContext(ctx)
	p.sys.meters.pushes.WithLabelValues(outcome(err)).Inc()
	if err != nil {
		p.now("failing", err)
		return
	}
	p.url = address
	p.now("pushing", nil)
}

func (p *pusher) pusher(client *http.Client, address string) *push.Pusher {
	bare, user := splitUser(address)
	pusher := push.New(bare, pushJob).Client(client).Gatherer(p.gather).Grouping("instance", p.host).Grouping("system", deploymentLabel(p.sys.cfg)) // deployment is a label of each metric
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
func (p *pusher) now(state string, err error) {
	if state == p.state {
		return
	}
	switch {
	case state == "failing":
		p.log.Warn("metrics cannot be pushed; it is tried again", "err", err)
	case state == "pushing":
		p.log.Info("metrics are pushed", "url", bareURL(p.url))
	case p.state == "pushing" || p.state == "failing":
		p.log.Info("metrics are no longer pushed", "why", either(state, "off"))
	}
	p.state = state
}

// leave deletes what was pushed: values that nobody keeps up to date would go
// on saying that all is well.
func (p *pusher) leave(ctx context.Context, client *http.Client) {
	if p.url == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	if err := deleteGroup(ctx, client, p.pusher(client, p.url)); err != nil {
		p.log.Debug("what was pushed stays on the pushgateway", "err", err)
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

func either(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
